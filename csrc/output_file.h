// A file that is written under a temporary name and renamed when it is whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

// A failed system call: what was tried on which file, with the errno. Becomes Python's OSError.
class FileError : public std::runtime_error {
 public:
  FileError(int code, const std::string& what, std::string path)
      : std::runtime_error(what), code(code), path(std::move(path)) {}
  const int code;
  const std::string path;
};

// Buffered, append-only writer of `<final_path>.partial`. Every short write is continued, every
// error is a FileError that names file, offset, bytes asked and the system's reason.
//
// The temporary file is locked (flock) while it is open: a second writer of the same path is
// refused, and what a killed process left behind is taken over: from byte 0 on, or, where a journal
// knows how many of its bytes are good, from there on.
class OutputFile {
 public:
  static constexpr int64_t kAfresh = -1;

  // keep_bytes: bytes of an existing `.partial` to go on behind; what follows them is cut off.
  explicit OutputFile(std::string final_path, int64_t keep_bytes = kAfresh);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void append(const void* data, std::size_t num_bytes);
  void flush();                                                          // buffer -> kernel
  void overwrite(const void* data, std::size_t num_bytes, uint64_t at);  // after flush()
  void read_back(void* data, std::size_t num_bytes, uint64_t at) const;  // after flush()
  void sync();      // flush, fsync
  void sync_data() const;  // fdatasync of what was flushed; other threads may append meanwhile
  void rename();    // to the final name; the file must be synced
  void close();     // checked: some file systems report a full disk only here
  void abandon() noexcept;  // close and remove the temporary file, if it still has that name
  void keep() { kept_ = true; }  // a journal counts on the temporary file from now on
  void leave() noexcept;         // close; let a kept temporary file lie and abandon another

  const std::string& final_path() const { return final_path_; }
  uint64_t num_bytes() const { return num_bytes_; }

 private:
  void open_locked(int64_t keep_bytes);
  void cut(int64_t keep_bytes);
  void release() noexcept;
  void write_at(const char* data, std::size_t num_bytes, uint64_t at);
  [[noreturn]] void fail(int code, const std::string& tried) const;

  static constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
  std::string final_path_, path_;
  int descriptor_ = -1;
  bool renamed_ = false, kept_ = false;
  uint64_t num_bytes_ = 0;    // appended
  uint64_t num_written_ = 0;  // of these, handed to the kernel
  std::vector<char> buffer_;
};

// Make renames inside the folder of `path` survive a power cut.
void sync_folder_of(const std::string& path);
