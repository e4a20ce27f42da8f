// Python's door to the .idx parser.
#include "index_reader.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstring>
#include <string>
#include <string_view>

namespace py = pybind11;

namespace {

py::tuple parse_index_header(const py::bytes& header, int64_t idx_bytes, int64_t bin_bytes) {
  const std::string_view bytes = header;
  const order::IndexFacts facts = order::parse_index_header(
      bytes.data(), static_cast<int64_t>(bytes.size()), idx_bytes, bin_bytes);
  return py::make_tuple(facts.code, facts.num_documents, facts.num_boundaries, facts.lengths_at,
                        facts.pointers_at, facts.boundaries_at, facts.modes_at);
}

py::tuple check_index(const py::array_t<int32_t, py::array::c_style>& lengths,
                      const py::array_t<int64_t, py::array::c_style>& pointers,
                      int64_t item_bytes, int64_t bin_bytes, int64_t first, int64_t begin) {
  if (lengths.ndim() != 1 || pointers.ndim() != 1 || lengths.size() != pointers.size()) {
    throw std::invalid_argument("lengths and pointers must be flat and as many, found " +
                                std::to_string(lengths.size()) + " and " +
                                std::to_string(pointers.size()));
  }
  const char* const length_bytes = reinterpret_cast<const char*>(lengths.data());
  const char* const pointer_bytes = reinterpret_cast<const char*>(pointers.data());
  const int64_t count = lengths.size();
  order::CheckedDocuments checked;
  {
    py::gil_scoped_release release;
    checked = order::check_documents(length_bytes, pointer_bytes, count, first, begin, item_bytes,
                                     bin_bytes);
  }
  return py::make_tuple(checked.end, checked.num_empty);
}

using Int64Array = py::array_t<int64_t, py::array::c_style>;

py::array_t<int64_t> bin_pieces(const Int64Array& pointers, int64_t item_bytes,
                                const Int64Array& pieces) {
  if (pointers.ndim() != 1 || pieces.ndim() != 2 || pieces.shape(1) != 5) {
    throw std::invalid_argument("pointers must be [documents], pieces [P, 5]");
  }
  if (item_bytes != 1 && item_bytes != 2 && item_bytes != 4 && item_bytes != 8) {
    throw std::invalid_argument("ids of " + std::to_string(item_bytes) + " bytes");
  }
  const int64_t num_documents = pointers.size(), count = pieces.shape(0);
  const char* const pointer_bytes = reinterpret_cast<const char*>(pointers.data());
  const int64_t* const piece = pieces.data();
  py::array_t<int64_t> found({count, int64_t{3}});
  int64_t* const into = found.mutable_data();
  const py::gil_scoped_release release;
  for (int64_t p = 0; p < count; ++p) {
    const int64_t document = piece[5 * p];
    if (document < 0 || document >= num_documents) {
      throw std::out_of_range("document " + std::to_string(document) + " of " +
                              std::to_string(num_documents));
    }
    __builtin_prefetch(pointer_bytes + 8 * document, 0, 0);  // they lie anywhere
  }
  const int shift = __builtin_ctzll(static_cast<uint64_t>(item_bytes));
  for (int64_t p = 0; p < count; ++p) {
    int64_t pointer;
    std::memcpy(&pointer, pointer_bytes + 8 * piece[5 * p], 8);
    into[3 * p] = static_cast<int64_t>(static_cast<uint64_t>(pointer >> shift) +
                                       static_cast<uint64_t>(piece[5 * p + 1]));
    into[3 * p + 1] = piece[5 * p + 2];
    into[3 * p + 2] = piece[5 * p + 3];
  }
  return found;
}

}  // namespace

void bind_index_reader(py::module_& m) {
  m.def("parse_index_header", &parse_index_header, py::arg("header"), py::arg("idx_bytes"),
        py::arg("bin_bytes"));
  m.def("check_index", &check_index, py::arg("lengths").noconvert(),
        py::arg("pointers").noconvert(), py::arg("item_bytes"), py::arg("bin_bytes"),
        py::arg("first"), py::arg("begin"));
  m.def("bin_pieces", &bin_pieces, py::arg("pointers").noconvert(), py::arg("item_bytes"),
        py::arg("pieces").noconvert());
}
