// Python's door to the .idx parser.
#include "index_reader.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

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

}  // namespace

void bind_index_reader(py::module_& m) {
  m.def("parse_index_header", &parse_index_header, py::arg("header"), py::arg("idx_bytes"),
        py::arg("bin_bytes"));
  m.def("check_index", &check_index, py::arg("lengths").noconvert(),
        py::arg("pointers").noconvert(), py::arg("item_bytes"), py::arg("bin_bytes"),
        py::arg("first"), py::arg("begin"));
}
