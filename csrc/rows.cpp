// Python's door to the row writer: native/rows.py allocates the batch, this fills rows of it.
#include "rows.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <new>
#include <vector>

#include "file_reads.h"

namespace py = pybind11;

namespace {

using Int64Array = py::array_t<int64_t, py::array::c_style>;
using ByteArray = py::array_t<uint8_t, py::array::c_style>;

template <typename T>
T* writable(py::array_t<T, py::array::c_style>& array, int64_t num_rows, int64_t sequence_length,
            const char* name) {
  if (array.ndim() != 2 || array.shape(0) != num_rows || array.shape(1) != sequence_length) {
    throw std::invalid_argument(std::string(name) + " must have " + std::to_string(num_rows) +
                                " x " + std::to_string(sequence_length) + " elements");
  }
  return array.mutable_data();  // throws when NumPy says read-only
}

// Memory of batches that nobody holds any more. A fresh batch of some MB costs ten times more in
// page faults than in writing it. Only used while the interpreter lock is held.
class Slabs {
 public:
  char* take(std::size_t bytes) {
    for (auto slab = free_.rbegin(); slab != free_.rend(); ++slab) {  // the last is still in caches
      if (slab->bytes != bytes) continue;
      char* const data = slab->data;
      free_.erase(std::next(slab).base());
      kept_ -= bytes;
      return data;
    }
    return static_cast<char*>(::operator new(bytes, std::align_val_t{kAlign}));
  }

  void give_back(char* data, std::size_t bytes) {
    free_.push_back({data, bytes});
    for (kept_ += bytes; kept_ > kMostBytes; free_.erase(free_.begin())) {
      kept_ -= free_.front().bytes;
      ::operator delete(free_.front().data, std::align_val_t{kAlign});
    }
  }

  static constexpr std::size_t kAlign = 64, kMostBytes = std::size_t{64} << 20;

 private:
  struct Slab {
    char* data;
    std::size_t bytes;
  };
  std::vector<Slab> free_;  // the one given back first stands first
  std::size_t kept_ = 0;
};

Slabs& slabs() {
  static auto* const shared = new Slabs;  // arrays may outlive everything static
  return *shared;
}

py::tuple empty_rows(int64_t num_rows, int64_t sequence_length) {
  order::check_sequence_length(sequence_length);
  constexpr int64_t kMostRows = int64_t{1} << 20, kMostTokens = int64_t{1} << 38;
  if (num_rows < 0 || num_rows > kMostRows || num_rows * sequence_length > kMostTokens) {
    throw std::invalid_argument("a batch of " + std::to_string(num_rows) + " x " +
                                std::to_string(sequence_length) +
                                " is beyond 2^20 rows or 2^38 tokens");
  }
  struct Held {
    char* data;
    std::size_t bytes;
  };
  const auto padded = [](std::size_t bytes) {
    return (bytes + Slabs::kAlign - 1) / Slabs::kAlign * Slabs::kAlign;
  };
  const std::size_t count = static_cast<std::size_t>(num_rows * sequence_length);
  const std::size_t wide = padded(8 * count), narrow = padded(4 * count);
  const std::size_t bytes = std::max(3 * wide + 2 * narrow, Slabs::kAlign);
  char* const data = slabs().take(bytes);
  const py::capsule owner(new Held{data, bytes}, [](void* pointer) {
    const std::unique_ptr<Held> held(static_cast<Held*>(pointer));
    slabs().give_back(held->data, held->bytes);
  });
  const auto array = [&](auto type, std::size_t at) {
    using T = decltype(type);
    return py::array_t<T>({num_rows, sequence_length}, reinterpret_cast<T*>(data + at), owner);
  };
  return py::make_tuple(array(int64_t{}, 0), array(int64_t{}, wide), array(float{}, 3 * wide),
                        array(int32_t{}, 3 * wide + narrow), array(int64_t{}, 2 * wide));
}

// Where rows go: those of a batch, by their numbers.
struct Target {
  order::Row batch;
  int64_t num_rows;
  const int64_t* row_numbers;
};

void check_rows(const order::RowPieces& pieces, int64_t num_tokens, int64_t sequence_length,
                const Target& target) {
  order::check_row_pieces(pieces, num_tokens, sequence_length);
  for (int64_t b = 0; b < pieces.num_rows; ++b) {
    if (target.row_numbers[b] < 0 || target.row_numbers[b] >= target.num_rows) {
      throw std::invalid_argument("row " + std::to_string(target.row_numbers[b]) +
                                  " of a batch of " + std::to_string(target.num_rows));
    }
  }
}

template <typename Token>
void write_rows_portably(const order::Corpus& corpus, const order::RowPieces& rows,
                         const order::RowLayout& layout, const Target& target) {
  order::RowWriter<Token> writer(corpus, layout);
  const order::Row& batch = target.batch;
  for (int64_t b = 0; b < rows.num_rows; ++b) {
    const int64_t at = target.row_numbers[b] * layout.sequence_length;
    writer.write(rows.pieces + 3 * rows.starts[b], rows.starts[b + 1] - rows.starts[b],
                 {batch.tokens + at, batch.labels + at, batch.loss_mask + at,
                  batch.document_ids + at, batch.position_ids + at});
  }
}

#if defined(__x86_64__) && defined(__GNUC__)
// The same with stores of 32 bytes: their number decides the time, 131 KB a row of 4,096 tokens
// take 3.8 us in place of 6.2 (2026-11-22).
template <typename Token>
__attribute__((target("avx2"), flatten)) void write_rows_avx2(const order::Corpus& corpus,
                                                              const order::RowPieces& rows,
                                                              const order::RowLayout& layout,
                                                              const Target& target) {
  write_rows_portably<Token>(corpus, rows, layout, target);
}
#endif

template <typename Token>
void write_rows(const order::Corpus& corpus, const order::RowPieces& rows,
                const order::RowLayout& layout, const Target& target) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx2")) return write_rows_avx2<Token>(corpus, rows, layout, target);
#endif
  write_rows_portably<Token>(corpus, rows, layout, target);
}

// Reads the pieces of some rows, then writes these. By turns they drive each other's data out of
// the processor's nearer caches: 31 us a row of 4,096 tokens, this way 27 (2026-11-22).
template <typename Token>
void write_file_rows(const FileReads& file, const order::RowPieces& rows,
                     const order::RowLayout& layout, const Target& target) {
  constexpr int64_t kReadTogether = 256 << 10, kToken = sizeof(Token);
  std::vector<int64_t> pieces(rows.pieces, rows.pieces + 3 * rows.num_pieces);
  thread_local std::vector<char> read;  // fresh memory would cost page faults every time
  for (int64_t first = 0, stop = 0; first < rows.num_rows; first = stop) {
    int64_t num_read = 0;
    for (; stop < rows.num_rows && num_read * kToken < kReadTogether; ++stop) {
      for (int64_t p = rows.starts[stop]; p < rows.starts[stop + 1]; ++p) {
        pieces[3 * p] = num_read;
        num_read += pieces[3 * p + 1];
      }
    }
    read.resize(std::max(read.size(), static_cast<std::size_t>(num_read * kToken)));
    for (int64_t p = rows.starts[first]; p < rows.starts[stop]; ++p) {
      const int64_t* const piece = rows.pieces + 3 * p;
      file.read(read.data() + pieces[3 * p] * kToken, piece[1] * kToken, piece[0] * kToken);
    }
    const order::RowPieces part{pieces.data(), rows.num_pieces, rows.starts + first, stop - first};
    write_rows<Token>({read.data(), nullptr, nullptr}, part, layout,
                      {target.batch, target.num_rows, target.row_numbers + first});
  }
}

// read(Token{}) with the type that a corpus of this dtype has.
template <typename Read>
void with_token_type(const py::dtype& type, const Read& read) {
  if (type.equal(py::dtype::of<uint16_t>())) {
    read(uint16_t{});
  } else if (type.equal(py::dtype::of<int32_t>())) {
    read(int32_t{});
  } else if (type.equal(py::dtype::of<uint8_t>())) {
    read(uint8_t{});
  } else if (type.equal(py::dtype::of<int8_t>())) {
    read(int8_t{});
  } else if (type.equal(py::dtype::of<int16_t>())) {
    read(int16_t{});
  } else if (type.equal(py::dtype::of<int64_t>())) {
    read(int64_t{});
  } else {
    throw py::type_error("the corpus has dtype " + py::str(type).cast<std::string>() +
                         ", which no index of token ids has");
  }
}

void require_flat(const py::array& array, const char* name) {
  if (array.ndim() != 1 || (array.flags() & py::array::c_style) == 0) {
    throw std::invalid_argument(std::string(name) + " must be a flat array without gaps");
  }
}

// The arrays of a batch and which of their rows are meant, checked.
struct Asked {
  Asked(const Int64Array& pieces, const Int64Array& row_starts, const Int64Array& row_numbers,
        py::array_t<int64_t, py::array::c_style>& tokens,
        py::array_t<int64_t, py::array::c_style>& labels,
        py::array_t<float, py::array::c_style>& loss_mask,
        py::array_t<int32_t, py::array::c_style>& document_ids,
        py::array_t<int64_t, py::array::c_style>& position_ids) {
    if (pieces.ndim() != 2 || pieces.shape(1) != 3 || row_starts.ndim() != 1 ||
        row_starts.size() < 1 || row_numbers.ndim() != 1 ||
        row_numbers.size() + 1 != row_starts.size() || tokens.ndim() != 2) {
      throw std::invalid_argument("pieces must be [P, 3], row_starts [B + 1], row_numbers [B]");
    }
    const int64_t num_rows = tokens.shape(0);
    length = tokens.shape(1);
    target = {{writable(tokens, num_rows, length, "tokens"),
               writable(labels, num_rows, length, "labels"),
               writable(loss_mask, num_rows, length, "loss_mask"),
               writable(document_ids, num_rows, length, "document_ids"),
               writable(position_ids, num_rows, length, "position_ids")},
              num_rows, row_numbers.data()};
    rows = {pieces.data(), static_cast<int64_t>(pieces.shape(0)), row_starts.data(),
            static_cast<int64_t>(row_starts.size()) - 1};
  }
  int64_t length;
  Target target;
  order::RowPieces rows;
};

void read_rows(const py::array& bin, const Int64Array& pieces, const Int64Array& row_starts,
               int64_t pad_id, bool attend_across, const py::object& roles_or_none,
               const py::object& role_counts_or_none, const Int64Array& row_numbers,
               py::array_t<int64_t, py::array::c_style> tokens,
               py::array_t<int64_t, py::array::c_style> labels,
               py::array_t<float, py::array::c_style> loss_mask,
               py::array_t<int32_t, py::array::c_style> document_ids,
               py::array_t<int64_t, py::array::c_style> position_ids) {
  require_flat(bin, "bin");
  const Asked asked(pieces, row_starts, row_numbers, tokens, labels, loss_mask, document_ids,
                    position_ids);
  ByteArray roles, role_counts;
  if (roles_or_none.is_none() != role_counts_or_none.is_none()) {
    throw std::invalid_argument("roles and role_counts belong together");
  }
  const bool by_role = !roles_or_none.is_none();
  if (by_role) {
    if (!ByteArray::check_(roles_or_none) || !ByteArray::check_(role_counts_or_none)) {
      throw py::type_error("roles and role_counts must be flat arrays of uint8 without gaps");
    }
    roles = roles_or_none;
    role_counts = role_counts_or_none;
    if (roles.ndim() != 1 || roles.size() != bin.size() || role_counts.size() != 256) {
      throw std::invalid_argument(
          "roles must have one byte for each of " + std::to_string(bin.size()) +
          " tokens and role_counts 256, found " + std::to_string(roles.size()) + " and " +
          std::to_string(role_counts.size()));
    }
  }
  with_token_type(bin.dtype(), [&](auto token) {
    using Token = decltype(token);
    const order::Corpus corpus{static_cast<const char*>(bin.data()),
                               by_role ? roles.data() : nullptr,
                               by_role ? role_counts.data() : nullptr};
    const int64_t num_tokens = bin.size();
    py::gil_scoped_release release;
    check_rows(asked.rows, num_tokens, asked.length, asked.target);
    write_rows<Token>(corpus, asked.rows, {asked.length, pad_id, attend_across}, asked.target);
  });
}

void read_file_rows(int descriptor, const std::string& path, const py::dtype& dtype,
                    int64_t num_tokens, const Int64Array& pieces, const Int64Array& row_starts,
                    int64_t pad_id, bool attend_across, const Int64Array& row_numbers,
                    py::array_t<int64_t, py::array::c_style> tokens,
                    py::array_t<int64_t, py::array::c_style> labels,
                    py::array_t<float, py::array::c_style> loss_mask,
                    py::array_t<int32_t, py::array::c_style> document_ids,
                    py::array_t<int64_t, py::array::c_style> position_ids) {
  const Asked asked(pieces, row_starts, row_numbers, tokens, labels, loss_mask, document_ids,
                    position_ids);
  if (num_tokens < 0 || num_tokens > order::kMaxTokens / 8) {
    throw std::invalid_argument("a corpus of " + std::to_string(num_tokens) + " tokens");
  }
  with_token_type(dtype, [&](auto token) {
    using Token = decltype(token);
    py::gil_scoped_release release;
    check_rows(asked.rows, num_tokens, asked.length, asked.target);
    write_file_rows<Token>({descriptor, path}, asked.rows, {asked.length, pad_id, attend_across},
                           asked.target);
  });
}

}  // namespace

void bind_rows(py::module_& m) {
  m.def("empty_rows", &empty_rows, py::arg("num_rows"), py::arg("sequence_length"));
  m.def("read_rows", &read_rows, py::arg("bin"), py::arg("pieces").noconvert(),
        py::arg("row_starts").noconvert(), py::arg("pad_id"), py::arg("attend_across"),
        py::arg("roles").none(true), py::arg("role_counts").none(true),
        py::arg("row_numbers").noconvert(), py::arg("tokens").noconvert(),
        py::arg("labels").noconvert(), py::arg("loss_mask").noconvert(),
        py::arg("document_ids").noconvert(), py::arg("position_ids").noconvert());
  m.def("read_file_rows", &read_file_rows, py::arg("descriptor"), py::arg("path"),
        py::arg("dtype"), py::arg("num_tokens"), py::arg("pieces").noconvert(),
        py::arg("row_starts").noconvert(), py::arg("pad_id"), py::arg("attend_across"),
        py::arg("row_numbers").noconvert(), py::arg("tokens").noconvert(),
        py::arg("labels").noconvert(), py::arg("loss_mask").noconvert(),
        py::arg("document_ids").noconvert(), py::arg("position_ids").noconvert());
}
