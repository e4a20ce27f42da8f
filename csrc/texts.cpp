// Python's doors to flat texts. Types are never cast in silence; the interpreter lock is released.
#include "texts.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>

#include "arrays.h"

namespace py = pybind11;

namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Int32Array = py::array_t<int32_t, py::array::c_style>;
using Int64Array = py::array_t<int64_t, py::array::c_style>;

void require_flat(const py::array& array, const char* name) {
  if (array.ndim() != 1) {
    throw std::invalid_argument(std::string(name) + " must have one axis, found " +
                                std::to_string(array.ndim()));
  }
}

texts::Flat flat_of(const Bytes& text, const Int64Array& offsets) {
  require_flat(text, "text");
  require_flat(offsets, "offsets");
  if (offsets.size() == 0) throw std::invalid_argument("offsets must have an element at least");
  return {text.data(), text.size(), offsets.data(), offsets.size() - 1};
}

using PartArrays = std::tuple<Bytes, Int64Array, Int64Array>;

py::tuple join_texts(const std::vector<PartArrays>& arrays, int64_t num_texts) {
  if (num_texts < 0) {
    throw std::invalid_argument("num_texts is " + std::to_string(num_texts));
  }
  std::vector<texts::Part> parts;
  for (const auto& [text, offsets, choice] : arrays) {
    require_flat(choice, "choice");
    if (choice.size() != num_texts) {
      throw std::invalid_argument("part " + std::to_string(parts.size()) + " chooses for " +
                                  std::to_string(choice.size()) + " of " +
                                  std::to_string(num_texts) + " texts");
    }
    parts.push_back({flat_of(text, offsets), choice.data()});
  }
  Int64Array offsets(num_texts + 1);
  Int64Array ends({num_texts, static_cast<int64_t>(parts.size())});
  int64_t* const offset_data = offsets.mutable_data();
  int64_t* const end_data = ends.mutable_data();
  {
    py::gil_scoped_release release;
    texts::measure(parts, num_texts, offset_data, end_data);
  }
  Bytes text(offset_data[num_texts]);
  uint8_t* const text_data = text.mutable_data();
  {
    py::gil_scoped_release release;
    texts::join(parts, num_texts, text_data);
  }
  return py::make_tuple(text, offsets, ends);
}

Bytes token_roles(const Int64Array& token_ends, const Int32Array& lengths,
                  const Int64Array& segment_firsts, const Int64Array& segment_ends,
                  const Bytes& segment_roles) {
  require_flat(token_ends, "token_ends");
  require_flat(lengths, "lengths");
  require_flat(segment_firsts, "segment_firsts");
  require_flat(segment_ends, "segment_ends");
  require_flat(segment_roles, "segment_roles");
  if (segment_firsts.size() != lengths.size() + 1 || segment_ends.size() != segment_roles.size()) {
    throw std::invalid_argument("sizes do not agree: " + std::to_string(lengths.size()) +
                                " lengths, " + std::to_string(segment_firsts.size()) +
                                " segment_firsts, " + std::to_string(segment_ends.size()) +
                                " segment_ends, " + std::to_string(segment_roles.size()) +
                                " segment_roles");
  }
  Bytes roles(token_ends.size());
  const texts::Segments segments{segment_firsts.data(), segment_ends.data(), segment_roles.data(),
                                 segment_ends.size()};
  const int64_t* const end_data = token_ends.data();
  const int64_t num_tokens = token_ends.size(), num_texts = lengths.size();
  const int32_t* const length_data = lengths.data();
  uint8_t* const role_data = roles.mutable_data();
  {
    py::gil_scoped_release release;
    texts::token_roles(end_data, num_tokens, length_data, num_texts, segments, role_data);
  }
  return roles;
}

py::array_t<int64_t> find_invalid_utf8(const Bytes& text, const Int64Array& offsets) {
  const texts::Flat strings = flat_of(text, offsets);
  std::vector<int64_t> found;
  {
    py::gil_scoped_release release;
    found = texts::find_invalid_utf8(strings);
  }
  return to_array(std::move(found));
}

texts::CharacterSet character_set(const Int64Array& ranges) {
  if (ranges.ndim() != 2 || ranges.shape(1) != 2) {
    throw std::invalid_argument("ranges must be [n, 2]");
  }
  return {ranges.data(), ranges.shape(0)};
}

py::array_t<int64_t> texts_with(const texts::CharacterSet& characters, const Bytes& text,
                                const Int64Array& offsets) {
  const texts::Flat strings = flat_of(text, offsets);
  std::vector<int64_t> found;
  {
    py::gil_scoped_release release;
    found = characters.texts_with(strings);
  }
  return to_array(std::move(found));
}

}  // namespace

void bind_texts(py::module_& m) {
  m.def("join_texts", &join_texts, py::arg("parts"), py::arg("num_texts"));
  m.def("token_roles", &token_roles, py::arg("token_ends").noconvert(),
        py::arg("lengths").noconvert(), py::arg("segment_firsts").noconvert(),
        py::arg("segment_ends").noconvert(), py::arg("segment_roles").noconvert());
  py::class_<texts::CharacterSet>(m, "CharacterSet")
      .def(py::init(&character_set), py::arg("ranges").noconvert())
      .def("texts_with", &texts_with, py::arg("text").noconvert(), py::arg("offsets").noconvert());
  m.def("find_invalid_utf8", &find_invalid_utf8, py::arg("text").noconvert(),
        py::arg("offsets").noconvert());
}
