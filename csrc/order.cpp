// Python's doors to the order builders. Arrays are checked for type and shape here (dtypes are
// never cast in silence), the builders check the values, the interpreter lock is released meanwhile.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>

#include "blend_order.h"
#include "epoch.h"
#include "keyed_permutation.h"
#include "pack_index.h"
#include "permutation.h"
#include "sample_index.h"

namespace py = pybind11;

namespace {

using Int32Array = py::array_t<int32_t, py::array::c_style>;
using Int64Array = py::array_t<int64_t, py::array::c_style>;

void require_axes(const py::array& array, int axes, const char* name) {
  if (array.ndim() != axes) {
    throw std::invalid_argument(std::string(name) + " must have " + std::to_string(axes) +
                                " axes, found " + std::to_string(array.ndim()));
  }
}

// An .idx does not align its sections: what comes from one is read through bytes.
const char* bytes_of(const py::array& array) { return static_cast<const char*>(array.data()); }

// Hands the vector's memory to NumPy without a copy; `columns` 0 makes a flat array.
template <typename T>
py::array_t<T> to_array(std::vector<T>&& values, int64_t columns = 0) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  const int64_t count = static_cast<int64_t>(owned->size());
  T* data = owned->data();
  py::capsule owner(owned.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  if (columns == 0) return py::array_t<T>({count}, data, owner);
  return py::array_t<T>({count / columns, columns}, data, owner);
}

py::array_t<int64_t> permute(uint64_t key, int64_t num_items, int64_t first, int64_t count) {
  order::check_positions(first, count, num_items);
  py::array_t<int64_t> images(count);
  {
    int64_t* data = images.mutable_data();
    py::gil_scoped_release release;
    order::permute(key, num_items, first, count, data);
  }
  return images;
}

py::tuple epoch_documents(const Int32Array& lengths, uint64_t split_key, uint64_t epoch_key,
                          int64_t num_held_out, int64_t first, int64_t count) {
  require_axes(lengths, 1, "lengths");
  const order::EpochDocuments epoch(bytes_of(lengths), lengths.size(), split_key, epoch_key,
                                    num_held_out);
  order::check_positions(first, count, epoch.num_positions());
  py::array_t<int64_t> documents(count), tokens(count);
  {
    int64_t *document_data = documents.mutable_data(), *token_data = tokens.mutable_data();
    py::gil_scoped_release release;
    epoch.read(first, count, document_data, token_data);
  }
  return py::make_tuple(documents, tokens);
}

py::array_t<int64_t> segment_totals(const Int32Array& lengths, uint64_t split_key,
                                    uint64_t epoch_key, int64_t num_held_out, int64_t align,
                                    int64_t segment_documents, int64_t first_segment,
                                    int64_t num_segments) {
  require_axes(lengths, 1, "lengths");
  const order::EpochDocuments epoch(bytes_of(lengths), lengths.size(), split_key, epoch_key,
                                    num_held_out);
  std::vector<int64_t> rows;
  {
    py::gil_scoped_release release;
    rows = order::segment_totals(epoch, align, segment_documents, first_segment, num_segments);
  }
  return to_array(std::move(rows), 2);
}

py::array_t<int64_t> permutation(uint64_t key, int64_t num_items) {
  std::vector<int64_t> result;
  {
    py::gil_scoped_release release;
    result = order::permutation(key, num_items);
  }
  return to_array(std::move(result));
}

py::array_t<int64_t> sample_index(const Int64Array& lengths, int64_t sequence_length,
                                  int64_t stream_offset) {
  require_axes(lengths, 1, "lengths");
  std::vector<int64_t> rows;
  {
    const int64_t* data = lengths.data();
    const int64_t count = lengths.size();
    py::gil_scoped_release release;
    rows = order::sample_index(data, count, sequence_length, stream_offset);
  }
  return to_array(std::move(rows), 2);
}

py::tuple pack_index(const Int64Array& lengths, int64_t sequence_length, int64_t align,
                     int64_t window) {
  require_axes(lengths, 1, "lengths");
  order::Packs packs;
  {
    const int64_t* data = lengths.data();
    const int64_t count = lengths.size();
    py::gil_scoped_release release;
    packs = order::pack_index(data, count, sequence_length, align, window);
  }
  return py::make_tuple(to_array(std::move(packs.pieces), 3), to_array(std::move(packs.starts)));
}

py::tuple blend_order(const Int64Array& starts, const Int64Array& bases, const Int64Array& shares,
                      const std::vector<Int64Array>& sizes, const std::vector<bool>& more,
                      int64_t sequence_length, int64_t max_tokens, std::vector<int64_t> given) {
  require_axes(starts, 1, "starts");
  require_axes(bases, 2, "bases");
  require_axes(shares, 1, "shares");
  const int64_t num_sources = shares.size();
  const auto count = [](const auto& items) { return static_cast<int64_t>(items.size()); };
  if (bases.shape(0) != starts.size() || bases.shape(1) != num_sources ||
      count(sizes) != num_sources || count(more) != num_sources || count(given) != num_sources) {
    throw std::invalid_argument(
        "sizes do not agree: " + std::to_string(starts.size()) + " starts, bases " +
        std::to_string(bases.shape(0)) + " x " + std::to_string(bases.shape(1)) + ", " +
        std::to_string(num_sources) + " shares, " + std::to_string(sizes.size()) + " sizes, " +
        std::to_string(more.size()) + " more, " + std::to_string(given.size()) + " given");
  }
  std::vector<order::Sizes> known;
  for (int64_t j = 0; j < num_sources; ++j) {
    require_axes(sizes[j], 1, "sizes of a source");
    known.push_back({sizes[j].data(), static_cast<int64_t>(sizes[j].size()), more[j]});
  }
  std::vector<int32_t> result;
  {
    const int64_t *start_data = starts.data(), *base_data = bases.data(),
                  *share_data = shares.data();
    const int64_t num_bends = starts.size();
    py::gil_scoped_release release;
    const order::Targets targets(start_data, base_data, share_data, num_bends, num_sources);
    result = order::blend_order(targets, known, sequence_length, max_tokens, given);
  }
  return py::make_tuple(to_array(std::move(result)), to_array(std::move(given)));
}

}  // namespace

void bind_order(py::module_& m) {
  m.def("permute", &permute, py::arg("key"), py::arg("num_items"), py::arg("first"),
        py::arg("count"));
  m.def("epoch_documents", &epoch_documents, py::arg("lengths").noconvert(), py::arg("split_key"),
        py::arg("epoch_key"), py::arg("num_held_out"), py::arg("first"), py::arg("count"));
  m.def("segment_totals", &segment_totals, py::arg("lengths").noconvert(), py::arg("split_key"),
        py::arg("epoch_key"), py::arg("num_held_out"), py::arg("align"),
        py::arg("segment_documents"), py::arg("first_segment"), py::arg("num_segments"));
  m.def("permutation", &permutation, py::arg("key"), py::arg("num_items"));
  m.def("sample_index", &sample_index, py::arg("lengths").noconvert(), py::arg("sequence_length"),
        py::arg("stream_offset"));
  m.def("pack_index", &pack_index, py::arg("lengths").noconvert(), py::arg("sequence_length"),
        py::arg("align"), py::arg("window"));
  m.def("blend_order", &blend_order, py::arg("starts").noconvert(), py::arg("bases").noconvert(),
        py::arg("shares").noconvert(), py::arg("sizes").noconvert(), py::arg("more"),
        py::arg("sequence_length"), py::arg("max_tokens"), py::arg("given"));
}
