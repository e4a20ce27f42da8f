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
// refused, and what a killed process left behind is taken over.
class OutputFile {
 public:
  explicit OutputFile(std::string final_path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void append(const void* data, std::size_t num_bytes);
  void flush();                                                          // buffer -> kernel
  void overwrite(const void* data, std::size_t num_bytes, uint64_t at);  // after flush()
  void read_back(void* data, std::size_t num_bytes, uint64_t at) const;  // after flush()
  void sync();      // flush, fsync
  void rename();    // to the final name; the file must be synced
  void close();     // checked: some file systems report a full disk only here
  void abandon() noexcept;  // close and remove the temporary file, if it still has that name

  const std::string& final_path() const { return final_path_; }
  uint64_t num_bytes() const { return num_bytes_; }

 private:
  void open_locked();
  void write_at(const char* data, std::size_t num_bytes, uint64_t at);
  [[noreturn]] void fail(int code, const std::string& tried) const;

  static constexpr std::size_t kBufferBytes = std::size_t{1} << 20;
  std::string final_path_, path_;
  int descriptor_ = -1;
  bool renamed_ = false;
  uint64_t num_bytes_ = 0;    // appended
  uint64_t num_written_ = 0;  // of these, handed to the kernel
  std::vector<char> buffer_;
};

// Make renames inside the folder of `path` survive a power cut.
void sync_folder_of(const std::string& path);
