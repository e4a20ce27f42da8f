// Python's door to the digests of texts; the interpreter lock is released.
#include "text_digests.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "texts.h"

namespace py = pybind11;

namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Int64Array = py::array_t<int64_t, py::array::c_style>;

Bytes digests(const text_digests::Folding& folding, const Bytes& text, const Int64Array& offsets) {
  if (text.ndim() != 1 || offsets.ndim() != 1 || offsets.size() == 0) {
    throw std::invalid_argument("text and offsets must have one axis, and offsets an element");
  }
  const texts::Flat flat{text.data(), text.size(), offsets.data(), offsets.size() - 1};
  flat.check("texts");
  Bytes found({flat.count, static_cast<int64_t>(text_digests::kDigestBytes)});
  uint8_t* const data = found.mutable_data();
  {
    const py::gil_scoped_release release;
    text_digests::Digester digester(folding);
    for (int64_t i = 0; i < flat.count; ++i) {
      digester.digest(flat.text + flat.offsets[i],
                      static_cast<std::size_t>(flat.offsets[i + 1] - flat.offsets[i]),
                      data + i * static_cast<int64_t>(text_digests::kDigestBytes));
    }
  }
  return found;
}

}  // namespace

void bind_text_digests(py::module_& m) {
  py::class_<text_digests::Folding>(m, "Folding")
      .def(py::init<const std::vector<std::pair<uint32_t, std::string>>&>(), py::arg("changed"))
      .def("digests", &digests, py::arg("text").noconvert(), py::arg("offsets").noconvert());
}
