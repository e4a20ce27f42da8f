// Python's doors to the order builders. Arrays are checked for type and shape here (no dtype is
// cast in silence), the builders check the values, the interpreter lock is released meanwhile.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>

#include "blend_order.h"
#include "concat_pieces.h"
#include "epoch.h"
#include "keyed_permutation.h"
#include "pack_index.h"

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

py::array_t<int64_t> document_totals(const Int32Array& lengths, int64_t first_document,
                                     int64_t num_documents, uint64_t split_key,
                                     uint64_t epoch_key, int64_t num_held_out, int64_t align,
                                     int64_t segment_documents) {
  require_axes(lengths, 1, "lengths");
  const char* const data = bytes_of(lengths);
  const int64_t count = lengths.size();
  std::vector<int64_t> rows;
  {
    py::gil_scoped_release release;
    rows = order::document_totals(data, first_document, count, num_documents, split_key, epoch_key,
                                  num_held_out, align, segment_documents);
  }
  return to_array(std::move(rows), 2);
}

py::tuple concat_pieces(const Int32Array& lengths, uint64_t split_key, int64_t num_held_out,
                        const py::array_t<uint64_t, py::array::c_style>& epoch_keys,
                        int64_t first_epoch, int64_t start_position, int64_t segment_documents,
                        int64_t align, const Int64Array& slots_before, int64_t sequence_length,
                        const Int64Array& samples) {
  require_axes(lengths, 1, "lengths");
  require_axes(epoch_keys, 1, "epoch_keys");
  require_axes(slots_before, 1, "slots_before");
  require_axes(samples, 1, "samples");
  const order::ConcatStream stream{
      bytes_of(lengths), lengths.size(), split_key, num_held_out, epoch_keys.data(),
      epoch_keys.size(), first_epoch, start_position, segment_documents, align,
      slots_before.data(), slots_before.size() - 1};
  const int64_t* const numbers = samples.data();
  const int64_t count = samples.size();
  order::Pieces pieces;
  {
    py::gil_scoped_release release;
    pieces = order::concat_pieces(stream, sequence_length, numbers, count);
  }
  return py::make_tuple(to_array(std::move(pieces.rows), 5), to_array(std::move(pieces.starts)));
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
  int64_t* const data = packs.pieces.get();
  const py::capsule owner(packs.pieces.release(),
                          [](void* pieces) { delete[] static_cast<int64_t*>(pieces); });
  return py::make_tuple(py::array_t<int64_t>({packs.num_pieces, int64_t{3}}, data, owner),
                        to_array(std::move(packs.starts)));
}

// How many of these equal `value`. Sums of the numbers' own width let the processor compare and add
// as many at a time as it can.
template <typename Number>
int64_t count_equal(const Number* numbers, int64_t count, Number value) {
  constexpr int64_t kMost = std::numeric_limits<uint16_t>::max();
  int64_t equal = 0;
  for (int64_t done = 0; done < count; done += kMost) {
    const int64_t stop = std::min(count, done + kMost);
    Number here = 0;
    for (int64_t i = done; i < stop; ++i) here = static_cast<Number>(here + (numbers[i] == value));
    equal += here;
  }
  return equal;
}

template <typename Number>
py::tuple locate(const py::array_t<Number, py::array::c_style>& order,
                 const Int64Array& counts_before, int64_t block_samples,
                 const Int64Array& samples) {
  require_axes(order, 1, "order");
  require_axes(counts_before, 2, "counts_before");
  require_axes(samples, 1, "samples");
  const int64_t num_samples = order.size(), num_sources = counts_before.shape(1);
  if (block_samples < 1 ||
      (num_samples > 0 && (num_samples - 1) / block_samples >= counts_before.shape(0))) {
    throw std::invalid_argument(std::to_string(counts_before.shape(0)) + " blocks of " +
                                std::to_string(block_samples) + " do not hold " +
                                std::to_string(num_samples) + " samples");
  }
  const int64_t count = samples.size();
  py::array_t<int32_t> sources(count);
  py::array_t<int64_t> numbers(count);
  const Number* const source_of = order.data();
  const int64_t *before = counts_before.data(), *asked = samples.data();
  int32_t* const source = sources.mutable_data();
  int64_t* const number = numbers.mutable_data();
  {
    const py::gil_scoped_release release;
    for (int64_t b = 0; b < count; ++b) {
      const int64_t sample = asked[b];
      if (sample < 0 || sample >= num_samples) {
        throw std::out_of_range("sample " + std::to_string(sample) + " of " +
                                std::to_string(num_samples));
      }
      const Number value = source_of[sample];
      if (value >= num_sources) {
        throw std::invalid_argument("sample " + std::to_string(sample) + " is of source " +
                                    std::to_string(value) + ", counts are given for " +
                                    std::to_string(num_sources));
      }
      const int64_t block = sample / block_samples, begin = block * block_samples;
      source[b] = static_cast<int32_t>(value);
      number[b] = before[block * num_sources + value] +
                  count_equal(source_of + begin, sample - begin, value);
    }
  }
  return py::make_tuple(sources, numbers);
}

std::vector<int64_t> to_vector(const Int64Array& array) {
  return std::vector<int64_t>(array.data(), array.data() + array.size());
}

// order::BlendOrder with the arrays it reads, and one caller at a time.
class BlendOrder {
 public:
  BlendOrder(const Int64Array& starts, const Int64Array& bases, const Int64Array& shares,
             int64_t sequence_length, const Int64Array& given, std::optional<int64_t> most_scanned)
      : order_(checked_targets(starts, bases, shares, given), sequence_length, to_vector(given),
               most_scanned.value_or(order::most_scanned())),
        sizes_(shares.size()) {}

  void feed(int64_t source, const py::array_t<int64_t, 0>& sizes, bool more) {
    require_axes(sizes, 1, "sizes of a source");
    const int64_t stride = sizes.strides(0);
    if (stride % 8 != 0 || reinterpret_cast<std::uintptr_t>(sizes.data()) % 8 != 0) {
      throw std::invalid_argument("sizes of a source must be aligned");
    }
    const Caller caller(*this);
    order_.feed(source, sizes.data(), sizes.size(), stride / 8, more);
    sizes_[source] = sizes;
  }

  int64_t choose(py::array out, int64_t max_tokens, std::optional<Int64Array> samples) {
    require_axes(out, 1, "out");
    if (samples && (samples->ndim() != 1 || samples->size() < out.size())) {
      throw std::invalid_argument("samples must have one axis and " + std::to_string(out.size()) +
                                  " elements at least");
    }
    int64_t* const numbers = samples ? samples->mutable_data() : nullptr;
    const py::dtype type = out.dtype();
    if (type.equal(py::dtype::of<uint8_t>())) return choose_as<uint8_t>(out, numbers, max_tokens);
    if (type.equal(py::dtype::of<uint16_t>())) return choose_as<uint16_t>(out, numbers, max_tokens);
    if (type.equal(py::dtype::of<uint32_t>())) return choose_as<uint32_t>(out, numbers, max_tokens);
    if (type.equal(py::dtype::of<int32_t>())) return choose_as<int32_t>(out, numbers, max_tokens);
    throw py::type_error("out must be uint8, uint16, uint32 or int32, found " +
                         py::str(type).cast<std::string>());
  }

  py::array_t<int64_t> given() const {
    py::array_t<int64_t> result(order_.num_sources());
    for (int64_t j = 0; j < order_.num_sources(); ++j) result.mutable_at(j) = order_.given(j);
    return result;
  }

  std::vector<int32_t> waiting() const { return order_.waiting(); }

 private:
  // The interpreter lock does not guard the state while it is released.
  class Caller {
   public:
    explicit Caller(BlendOrder& owner) : owner_(owner) {
      if (owner_.busy_.exchange(true)) {
        throw std::runtime_error("this BlendOrder is at work in another thread");
      }
    }
    ~Caller() { owner_.busy_ = false; }
    Caller(const Caller&) = delete;

   private:
    BlendOrder& owner_;
  };

  static order::Targets checked_targets(const Int64Array& starts, const Int64Array& bases,
                                        const Int64Array& shares, const Int64Array& given) {
    require_axes(starts, 1, "starts");
    require_axes(bases, 2, "bases");
    require_axes(shares, 1, "shares");
    require_axes(given, 1, "given");
    if (bases.shape(0) != starts.size() || bases.shape(1) != shares.size() ||
        given.size() != shares.size()) {
      throw std::invalid_argument("sizes do not agree: " + std::to_string(starts.size()) +
                                  " starts, bases " + std::to_string(bases.shape(0)) + " x " +
                                  std::to_string(bases.shape(1)) + ", " +
                                  std::to_string(shares.size()) + " shares, " +
                                  std::to_string(given.size()) + " given");
    }
    return order::Targets(to_vector(starts), to_vector(bases), to_vector(shares));
  }

  template <typename Number>
  int64_t choose_as(py::array& out, int64_t* samples, int64_t max_tokens) {
    if (order_.num_sources() - 1 > static_cast<int64_t>(std::numeric_limits<Number>::max())) {
      throw std::invalid_argument(std::to_string(order_.num_sources()) +
                                  " sources cannot be numbered by out's " +
                                  py::str(out.dtype()).cast<std::string>());
    }
    if ((out.flags() & py::array::c_style) == 0) {
      throw std::invalid_argument("out must have no gaps");
    }
    Number* const data = static_cast<Number*>(out.mutable_data());
    const int64_t room = out.size();
    const Caller caller(*this);
    py::gil_scoped_release release;
    return order_.choose(data, samples, room, max_tokens);
  }

  order::BlendOrder order_;
  std::vector<py::array> sizes_;  // what each source was fed last
  std::atomic<bool> busy_{false};
};

}  // namespace

void bind_order(py::module_& m) {
  m.def("permute", &permute, py::arg("key"), py::arg("num_items"), py::arg("first"),
        py::arg("count"));
  m.def("epoch_documents", &epoch_documents, py::arg("lengths").noconvert(), py::arg("split_key"),
        py::arg("epoch_key"), py::arg("num_held_out"), py::arg("first"), py::arg("count"));
  m.def("segment_totals", &segment_totals, py::arg("lengths").noconvert(), py::arg("split_key"),
        py::arg("epoch_key"), py::arg("num_held_out"), py::arg("align"),
        py::arg("segment_documents"), py::arg("first_segment"), py::arg("num_segments"));
  m.def("document_totals", &document_totals, py::arg("lengths").noconvert(),
        py::arg("first_document"), py::arg("num_documents"), py::arg("split_key"),
        py::arg("epoch_key"), py::arg("num_held_out"), py::arg("align"),
        py::arg("segment_documents"));
  m.def("concat_pieces", &concat_pieces, py::arg("lengths").noconvert(), py::arg("split_key"),
        py::arg("num_held_out"), py::arg("epoch_keys").noconvert(), py::arg("first_epoch"),
        py::arg("start_position"), py::arg("segment_documents"), py::arg("align"),
        py::arg("slots_before").noconvert(), py::arg("sequence_length"),
        py::arg("samples").noconvert());
  m.def("pack_index", &pack_index, py::arg("lengths").noconvert(), py::arg("sequence_length"),
        py::arg("align"), py::arg("window"));
  const auto def_locate = [&](auto number) {
    m.def("locate", &locate<decltype(number)>, py::arg("order").noconvert(),
          py::arg("counts_before").noconvert(), py::arg("block_samples"),
          py::arg("samples").noconvert());
  };
  def_locate(uint16_t{});
  def_locate(uint32_t{});
  py::class_<BlendOrder>(m, "BlendOrder")
      .def(py::init<const Int64Array&, const Int64Array&, const Int64Array&, int64_t,
                    const Int64Array&, std::optional<int64_t>>(),
           py::arg("starts").noconvert(), py::arg("bases").noconvert(),
           py::arg("shares").noconvert(), py::arg("sequence_length"), py::arg("given").noconvert(),
           py::arg("most_scanned"))
      .def("feed", &BlendOrder::feed, py::arg("source"), py::arg("sizes").noconvert(),
           py::arg("more"))
      .def("choose", &BlendOrder::choose, py::arg("out").noconvert(), py::arg("max_tokens"),
           py::arg("samples").noconvert())
      .def("given", &BlendOrder::given)
      .def("waiting", &BlendOrder::waiting);
}
