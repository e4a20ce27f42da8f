// Python's door to scattered reads of a large file.
#include "file_reads.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "keyed_permutation.h"

namespace py = pybind11;

namespace {

using Int64Array = py::array_t<int64_t, py::array::c_style>;

void check_range(int64_t begin, int64_t size) {
  if (begin < 0 || size < 0 || begin > order::kMaxItems || size > order::kMaxItems) {
    throw std::invalid_argument(std::to_string(size) + " bytes at " + std::to_string(begin) +
                                " are no part of a file");
  }
}

py::array_t<uint8_t> read_ranges(int descriptor, const std::string& path, const Int64Array& begins,
                                 const Int64Array& sizes) {
  if (begins.ndim() != 1 || sizes.ndim() != 1 || begins.size() != sizes.size()) {
    throw std::invalid_argument(std::to_string(begins.size()) + " begins do not go with " +
                                std::to_string(sizes.size()) + " sizes");
  }
  const int64_t *begin = begins.data(), *size = sizes.data(), count = begins.size();
  int64_t total = 0;
  for (int64_t i = 0; i < count; ++i) {
    check_range(begin[i], size[i]);
    check_range(total, size[i]);
    total += size[i];
  }
  py::array_t<uint8_t> bytes(total);
  char* into = reinterpret_cast<char*>(bytes.mutable_data());
  {
    py::gil_scoped_release release;
    const FileReads file{descriptor, path};
    for (int64_t i = 0; i < count; into += size[i++]) file.read(into, size[i], begin[i]);
  }
  return bytes;
}

py::array_t<int64_t> epoch_positions(int64_t num_documents, uint64_t split_key, uint64_t epoch_key,
                                     int64_t num_held_out, int64_t first, int64_t count) {
  if (num_held_out < 0 || num_held_out >= num_documents) {
    throw std::invalid_argument("num_held_out must be in [0, " + std::to_string(num_documents) +
                                "), found " + std::to_string(num_held_out));
  }
  const order::KeyedPermutation split(split_key, num_documents);
  const order::KeyedPermutation epoch(epoch_key, num_documents - num_held_out);
  order::check_positions(first, count, epoch.num_items());
  py::array_t<int64_t> documents(count);
  int64_t* into = documents.mutable_data();
  {
    py::gil_scoped_release release;
    for (int64_t done = 0; done < count; done += order::kPermutationBatch) {
      const int batch =
          static_cast<int>(std::min<int64_t>(order::kPermutationBatch, count - done));
      epoch.map_range(first + done, batch, into + done);
      for (int i = 0; i < batch; ++i) into[done + i] += num_held_out;
      split.map(into + done, batch);
    }
  }
  return documents;
}

}  // namespace

void bind_file_reads(py::module_& m) {
  m.def("read_ranges", &read_ranges, py::arg("descriptor"), py::arg("path"),
        py::arg("begins").noconvert(), py::arg("sizes").noconvert());
  m.def("epoch_positions", &epoch_positions, py::arg("num_documents"), py::arg("split_key"),
        py::arg("epoch_key"), py::arg("num_held_out"), py::arg("first"), py::arg("count"));
}
