// The compiled half of megatron_math: every builder allocates and returns its own arrays, checks
// every size, and throws std::invalid_argument with the numbers in it. NumPy twins: native/.
#include <pybind11/pybind11.h>

namespace py = pybind11;

void bind_file_reads(py::module_& m);
void bind_index_reader(py::module_& m);
void bind_index_writer(py::module_& m);
void bind_json_lines(py::module_& m);
void bind_order(py::module_& m);
void bind_rows(py::module_& m);
void bind_text_digests(py::module_& m);
void bind_text_scans(py::module_& m);
void bind_texts(py::module_& m);

PYBIND11_MODULE(_native, m) {
  m.doc() = "C++ builders of megatron_math: indexes, orders, packs, rows of batches.";
  bind_file_reads(m);
  bind_index_reader(m);
  bind_index_writer(m);
  bind_json_lines(m);
  bind_order(m);
  bind_rows(m);
  bind_text_digests(m);
  bind_text_scans(m);
  bind_texts(m);
}
