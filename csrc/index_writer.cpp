// Streaming writer of Megatron's `.bin`/`.idx` pair, byte for byte what megatron-core 0.16.1's
// IndexedDatasetBuilder writes when every document is one sequence. Memory does not grow with the
// corpus: tokens go to `.bin` as they come, lengths go to their final place in `.idx`, and the two
// sections behind them are made at the end by reading the lengths back.
//
// .idx, little-endian:  "MMIDIDX\0\0" | version u64 = 1 | dtype code u8 | sequences u64 (N)
//   | document boundaries u64 (N + 1) | lengths i32[N] | byte offsets i64[N] | boundaries i64[N + 1]
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>

#include "frame_documents.h"
#include "output_file.h"

namespace py = pybind11;

namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian");

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr uint64_t kVersion = 1;
constexpr uint64_t kCountsOffset = 9 + 8 + 1;  // counts: 0 until the index is complete
constexpr uint64_t kLengthsOffset = kCountsOffset + 8 + 8;
constexpr int64_t kUint16Below = 65500;  // DType.optimal_dtype
constexpr std::size_t kBlock = 65536;    // documents handled at a time in finish()

enum class State { open, broken, complete, finished, abandoned };

struct Counts {
  uint64_t documents = 0, tokens = 0;
};

void require_flat(const py::array& array, const char* name) {
  if (array.ndim() == 1) return;
  throw std::invalid_argument(std::string(name) + " must have one axis, found " +
                              std::to_string(array.ndim()));
}

class IndexWriter {
 public:
  IndexWriter(const std::string& prefix, int64_t vocabulary_size)
      : vocabulary_size_(checked_vocabulary(vocabulary_size)),
        wide_(vocabulary_size >= kUint16Below),
        bin_(prefix + ".bin"),
        idx_(prefix + ".idx") {
    const Header header = header_of(wide_);
    idx_.append(header.data(), header.size());
  }

  // Goes on with the temporary files of an earlier writer, behind its first documents and tokens.
  IndexWriter(const std::string& prefix, int64_t vocabulary_size, Counts before)
      : vocabulary_size_(checked_vocabulary(vocabulary_size)),
        wide_(vocabulary_size >= kUint16Below),
        bin_(prefix + ".bin", checked_bytes(before.tokens, wide_ ? 4 : 2, 0)),
        idx_(prefix + ".idx", checked_bytes(before.documents, 4, kLengthsOffset)),
        num_documents_(before.documents),
        num_tokens_(before.tokens) {
    Header found;
    idx_.read_back(found.data(), found.size(), 0);
    const Header expected = header_of(wide_);  // the counts are still 0, unless complete() was cut
    if (!std::equal(found.begin(), found.begin() + kCountsOffset, expected.begin())) {
      throw std::invalid_argument(idx_.final_path() + ".partial is not the beginning of an index of " +
                                  dtype() + " ids");
    }
    const uint64_t bytes = sum_lengths([](const int32_t*, std::size_t) {}) * token_bytes();
    require_bin_bytes(bytes);
  }

  void add_documents(const py::array& tokens,
                     const py::array_t<int32_t, py::array::c_style>& lengths) {
    require_flat(tokens, "tokens");
    require_flat(lengths, "lengths");
    const std::size_t num_tokens = tokens.size(), num_documents = lengths.size();
    const bool contiguous = tokens.flags() & py::array::c_style;
    const bool right_type = wide_ ? py::isinstance<py::array_t<int32_t>>(tokens)
                                  : py::isinstance<py::array_t<uint16_t>>(tokens);
    if (!right_type || !contiguous) {
      throw std::invalid_argument(
          "tokens must be a contiguous array of " + dtype() + ", which a vocabulary of " +
          std::to_string(vocabulary_size_) + " asks for; found " +
          std::string(py::str(tokens.dtype())) + (contiguous ? "" : ", not contiguous"));
    }
    const void* token_data = tokens.data();
    const int32_t* length_data = lengths.data();

    py::gil_scoped_release release;
    std::lock_guard<std::mutex> guard(mutex_);
    require_open();
    check_lengths(length_data, num_documents, num_tokens);
    if (wide_) {
      check_tokens(static_cast<const int32_t*>(token_data), num_tokens);
    } else {
      check_tokens(static_cast<const uint16_t*>(token_data), num_tokens);
    }
    state_ = State::broken;  // until both writes have succeeded
    bin_.append(token_data, num_tokens * token_bytes());
    idx_.append(length_data, num_documents * sizeof(int32_t));
    state_ = State::open;
    num_documents_ += num_documents;
    num_tokens_ += num_tokens;
  }

  // Everything is on disk, under the temporary names.
  void complete() {
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> guard(mutex_);
    require_open();
    state_ = State::broken;
    idx_.flush();
    append_offsets();
    append_boundaries();
    idx_.flush();
    const uint64_t counts[2] = {num_documents_, num_documents_ + 1};
    idx_.overwrite(counts, sizeof counts, kCountsOffset);
    bin_.sync();
    idx_.sync();
    state_ = State::complete;
  }

  void finish() {
    complete();
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> guard(mutex_);
    state_ = State::broken;
    // Two renames are not one. An older .idx goes first, so that a crash in between leaves a pair
    // that cannot be opened and never an old index on new tokens.
    if (std::remove(idx_.final_path().c_str()) != 0 && errno != ENOENT) {
      throw FileError(errno, std::string("cannot remove the old file: ") + std::strerror(errno),
                      idx_.final_path());
    }
    bin_.rename();
    idx_.rename();
    sync_folder_of(idx_.final_path());
    bin_.close();
    idx_.close();
    state_ = State::finished;
  }

  // What was added so far reaches the kernel; sync_data, which may run beside add_documents, then
  // takes it to the disk.
  void flush() {
    py::gil_scoped_release release;
    std::lock_guard<std::mutex> guard(mutex_);
    require_open();
    state_ = State::broken;
    bin_.flush();
    idx_.flush();
    state_ = State::open;
  }

  void sync_data() const {
    py::gil_scoped_release release;
    bin_.sync_data();
    idx_.sync_data();
  }

  void keep() {
    std::lock_guard<std::mutex> guard(mutex_);
    bin_.keep();
    idx_.keep();
  }

  void leave() {
    std::lock_guard<std::mutex> guard(mutex_);
    if (state_ == State::finished) return;
    bin_.leave();
    idx_.leave();
    state_ = State::abandoned;
  }

  void abandon() {
    std::lock_guard<std::mutex> guard(mutex_);
    if (state_ == State::finished) return;
    bin_.abandon();
    idx_.abandon();
    state_ = State::abandoned;
  }

  uint64_t num_documents() const { return num_documents_; }
  uint64_t num_tokens() const { return num_tokens_; }
  std::string dtype() const { return wide_ ? "int32" : "uint16"; }

 private:
  static int64_t checked_vocabulary(int64_t size) {
    if (size < 1 || size > int64_t{std::numeric_limits<int32_t>::max()} + 1) {
      throw std::invalid_argument("vocabulary_size must be in [1, 2^31], found " +
                                  std::to_string(size));
    }
    return size;
  }

  using Header = std::array<char, kLengthsOffset>;

  static Header header_of(bool wide) {  // with counts of 0, which stand until complete()
    Header header{};
    std::memcpy(header.data(), kMagic, sizeof kMagic);
    std::memcpy(header.data() + sizeof kMagic, &kVersion, sizeof kVersion);
    header[sizeof kMagic + sizeof kVersion] = wide ? 4 : 8;
    return header;
  }

  static int64_t checked_bytes(uint64_t count, uint64_t bytes_each, uint64_t before) {
    if (count > (uint64_t{1} << 62) / bytes_each) {
      throw std::invalid_argument("an index cannot have " + std::to_string(count) + " of them");
    }
    return static_cast<int64_t>(before + count * bytes_each);
  }

  std::size_t token_bytes() const { return wide_ ? sizeof(int32_t) : sizeof(uint16_t); }

  void require_open() const {
    if (state_ == State::open) return;
    const char* why = state_ == State::broken     ? "failed earlier"
                      : state_ == State::complete ? "is complete"
                      : state_ == State::finished ? "is finished"
                                                  : "was abandoned";
    throw std::runtime_error("the index writer of " + bin_.final_path() + " " + why);
  }

  void check_lengths(const int32_t* lengths, std::size_t count, std::size_t num_tokens) const {
    uint64_t sum = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (lengths[i] < 0) {
        throw std::invalid_argument("lengths[" + std::to_string(i) + "] is " +
                                    std::to_string(lengths[i]) + "; a length is 0 or more");
      }
      sum += static_cast<uint64_t>(lengths[i]);
    }
    if (sum != num_tokens) {
      throw std::invalid_argument("the lengths of " + std::to_string(count) +
                                  " documents sum to " + std::to_string(sum) + ", but " +
                                  std::to_string(num_tokens) + " tokens were given");
    }
  }

  template <typename Token>
  void check_tokens(const Token* tokens, std::size_t count) const {
    // Maximum and minimum first: this loop is vectorised, the search for the culprit is not.
    Token low = 0, high = 0;
    for (std::size_t i = 0; i < count; ++i) {
      low = std::min(low, tokens[i]);
      high = std::max(high, tokens[i]);
    }
    if (low >= 0 && static_cast<int64_t>(high) < vocabulary_size_) return;
    const Token* bad = std::find_if(tokens, tokens + count, [this](Token token) {
      return token < 0 || static_cast<int64_t>(token) >= vocabulary_size_;
    });
    throw std::invalid_argument("tokens[" + std::to_string(bad - tokens) + "] is " +
                                std::to_string(*bad) + "; ids of this vocabulary are 0 to " +
                                std::to_string(vocabulary_size_ - 1));
  }

  // Reads the lengths back, block by block; returns their sum.
  template <typename Visit>
  uint64_t sum_lengths(Visit visit) const {
    std::vector<int32_t> lengths(kBlock);
    uint64_t sum = 0;
    for (uint64_t first = 0; first < num_documents_; first += kBlock) {
      const std::size_t count = std::min<uint64_t>(kBlock, num_documents_ - first);
      idx_.read_back(lengths.data(), count * 4, kLengthsOffset + first * 4);
      for (std::size_t i = 0; i < count; ++i) sum += static_cast<uint64_t>(lengths[i]);
      visit(lengths.data(), count);
    }
    return sum;
  }

  void require_bin_bytes(uint64_t bytes) const {
    if (bytes == bin_.num_bytes()) return;
    throw std::runtime_error("the lengths account for " + std::to_string(bytes) + " bytes of " +
                             bin_.final_path() + ", which holds " +
                             std::to_string(bin_.num_bytes()));
  }

  void append_offsets() {
    std::vector<int64_t> offsets(kBlock);
    int64_t offset_bytes = 0;
    sum_lengths([&](const int32_t* lengths, std::size_t count) {
      for (std::size_t i = 0; i < count; ++i) {
        offsets[i] = offset_bytes;
        offset_bytes += int64_t{lengths[i]} * static_cast<int64_t>(token_bytes());
      }
      idx_.append(offsets.data(), count * sizeof(int64_t));
    });
    require_bin_bytes(static_cast<uint64_t>(offset_bytes));
  }

  void append_boundaries() {
    std::vector<int64_t> boundaries(kBlock);
    const uint64_t num_boundaries = num_documents_ + 1;
    for (uint64_t first = 0; first < num_boundaries; first += kBlock) {
      const std::size_t count = std::min<uint64_t>(kBlock, num_boundaries - first);
      for (std::size_t i = 0; i < count; ++i) boundaries[i] = static_cast<int64_t>(first + i);
      idx_.append(boundaries.data(), count * sizeof(int64_t));
    }
  }

  const int64_t vocabulary_size_;
  const bool wide_;
  OutputFile bin_, idx_;
  std::mutex mutex_;
  State state_ = State::open;
  uint64_t num_documents_ = 0, num_tokens_ = 0;
};

// (tokens as stored, lengths) with BOS and EOD put in.
py::tuple frame_documents(const py::array_t<int32_t, py::array::c_style>& tokens,
                          const py::array_t<int32_t, py::array::c_style>& lengths, int64_t bos,
                          int64_t eod, bool wide) {
  require_flat(tokens, "tokens");
  require_flat(lengths, "lengths");
  const Frame frame{bos, eod};
  const std::size_t num_documents = lengths.size(), num_tokens = tokens.size();
  py::array_t<int32_t> new_lengths(num_documents);
  const auto num_framed = static_cast<py::ssize_t>(num_tokens + num_documents * frame.extra());
  const int32_t *from = tokens.data(), *length_data = lengths.data();
  const auto fill = [&](auto framed) -> py::tuple {
    auto* to = framed.mutable_data();
    int32_t* to_lengths = new_lengths.mutable_data();
    {
      py::gil_scoped_release release;
      framed_lengths(length_data, num_documents, num_tokens, frame, to_lengths);
      frame_tokens(from, length_data, num_documents, frame, to);
    }
    return py::make_tuple(framed, new_lengths);
  };
  return wide ? fill(py::array_t<int32_t>(num_framed)) : fill(py::array_t<uint16_t>(num_framed));
}

py::array_t<uint8_t> frame_document_roles(const py::array_t<uint8_t, py::array::c_style>& roles,
                                          const py::array_t<int32_t, py::array::c_style>& lengths,
                                          bool has_bos, bool has_eod, uint8_t opening,
                                          uint8_t lonely) {
  require_flat(roles, "roles");
  require_flat(lengths, "lengths");
  const Frame frame{has_bos ? 0 : Frame::kNone, has_eod ? 0 : Frame::kNone};
  const std::size_t num_documents = lengths.size(), num_tokens = roles.size();
  py::array_t<uint8_t> framed(static_cast<py::ssize_t>(num_tokens + num_documents * frame.extra()));
  const uint8_t* from = roles.data();
  const int32_t* length_data = lengths.data();
  uint8_t* to = framed.mutable_data();
  {
    py::gil_scoped_release release;
    std::vector<int32_t> checked(num_documents);
    framed_lengths(length_data, num_documents, num_tokens, frame, checked.data());
    frame_roles(from, length_data, num_documents, frame, opening, lonely, to);
  }
  return framed;
}

// Any contiguous bytes-like object; kept alive while the interpreter lock is away.
class Bytes {
 public:
  explicit Bytes(const py::buffer& data) : info_(data.request()) {
    if (!PyBuffer_IsContiguous(info_.view(), 'C')) {
      throw std::invalid_argument("the bytes must be contiguous");
    }
  }
  const void* data() const { return info_.ptr; }
  std::size_t size() const { return static_cast<std::size_t>(info_.size * info_.itemsize); }

 private:
  py::buffer_info info_;
};

}  // namespace

void bind_index_writer(py::module_& m) {
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const FileError& error) {
      const py::object arguments = py::make_tuple(error.code, error.what(), error.path);
      PyErr_SetObject(PyExc_OSError, arguments.ptr());
    }
  });
  py::class_<IndexWriter>(m, "IndexWriter")
      .def(py::init<const std::string&, int64_t>(), py::arg("prefix"), py::arg("vocabulary_size"))
      .def(py::init([](const std::string& prefix, int64_t vocabulary_size, uint64_t num_documents,
                       uint64_t num_tokens) {
             return std::make_unique<IndexWriter>(prefix, vocabulary_size,
                                                  Counts{num_documents, num_tokens});
           }),
           py::arg("prefix"), py::arg("vocabulary_size"), py::arg("num_documents"),
           py::arg("num_tokens"))
      .def("add_documents", &IndexWriter::add_documents, py::arg("tokens"),
           py::arg("lengths").noconvert())
      .def("flush", &IndexWriter::flush)
      .def("sync_data", &IndexWriter::sync_data)
      .def("keep", &IndexWriter::keep)
      .def("leave", &IndexWriter::leave)
      .def("complete", &IndexWriter::complete)
      .def("finish", &IndexWriter::finish)
      .def("abandon", &IndexWriter::abandon)
      .def_property_readonly("num_documents", &IndexWriter::num_documents)
      .def_property_readonly("num_tokens", &IndexWriter::num_tokens)
      .def_property_readonly("dtype", &IndexWriter::dtype);
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  py::class_<OutputFile>(m, "OutputFile")
      .def(py::init<std::string, int64_t>(), py::arg("final_path"), py::arg("keep_bytes"))
      .def("append",
           [](OutputFile& file, const py::buffer& data) {
             const Bytes bytes(data);
             py::gil_scoped_release release;
             file.append(bytes.data(), bytes.size());
           })
      .def("overwrite",
           [](OutputFile& file, const py::buffer& data, uint64_t at) {
             const Bytes bytes(data);
             py::gil_scoped_release release;
             file.overwrite(bytes.data(), bytes.size(), at);
           })
      .def("flush", &OutputFile::flush, unlocked)
      .def("sync", &OutputFile::sync, unlocked)
      .def("sync_data", &OutputFile::sync_data, unlocked)
      .def("keep", &OutputFile::keep)
      .def("leave", &OutputFile::leave)
      .def("abandon", &OutputFile::abandon)
      .def_property_readonly("num_bytes", &OutputFile::num_bytes);
  m.def("frame_documents", &frame_documents, py::arg("tokens").noconvert(),
        py::arg("lengths").noconvert(), py::arg("bos"), py::arg("eod"), py::arg("wide"));
  m.def("frame_roles", &frame_document_roles, py::arg("roles").noconvert(),
        py::arg("lengths").noconvert(), py::arg("has_bos"), py::arg("has_eod"), py::arg("opening"),
        py::arg("lonely"));
}
