// Python's door to the JSON line scanner: bytes in, columns out; the interpreter lock is released.
#include "json_lines.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arrays.h"

namespace py = pybind11;

namespace {

py::tuple to_tuple(json_lines::Column& column) {
  const py::ssize_t num_bytes = column.offsets.back();
  uint8_t* text = column.release_text();
  py::capsule owner(text, [](void* p) { std::free(p); });
  return py::make_tuple(py::array_t<uint8_t>({num_bytes}, text, owner),
                        to_array(std::move(column.offsets)), to_array(std::move(column.kinds)));
}

py::tuple scan_lines(const py::buffer& block, const std::vector<std::string>& keys) {
  const py::buffer_info bytes = block.request();
  if (bytes.itemsize != 1 || !PyBuffer_IsContiguous(bytes.view(), 'C')) {
    throw std::invalid_argument("the block must be contiguous bytes, found items of " +
                                std::to_string(bytes.itemsize) + " bytes, format " + bytes.format);
  }
  for (auto key = keys.begin(); key != keys.end(); ++key) {
    if (std::find(keys.begin(), key, *key) != key) {
      throw std::invalid_argument("the key '" + *key + "' is given twice");
    }
  }
  json_lines::Scanned scanned;
  {
    py::gil_scoped_release release;
    scanned = json_lines::scan(static_cast<const uint8_t*>(bytes.ptr),
                               static_cast<std::size_t>(bytes.size), keys);
  }
  py::list columns, bad;
  for (json_lines::Column& column : scanned.columns) columns.append(to_tuple(column));
  for (const json_lines::BadLine& line : scanned.bad) {
    bad.append(py::make_tuple(line.line, line.begin, line.num_bytes, line.reason));
  }
  return py::make_tuple(scanned.num_lines, scanned.num_blank, to_array(std::move(scanned.rows)),
                        to_array(std::move(scanned.spans), 2), columns, bad);
}

}  // namespace

void bind_json_lines(py::module_& m) {
  m.def("scan_lines", &scan_lines, py::arg("block"), py::arg("keys"));
}
