#include "output_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

OutputFile::OutputFile(std::string final_path, int64_t keep_bytes)
    : final_path_(std::move(final_path)), path_(final_path_ + ".partial") {
  buffer_.reserve(kBufferBytes);
  try {
    open_locked(keep_bytes);
  } catch (...) {
    release();  // the destructor does not run
    throw;
  }
}

OutputFile::~OutputFile() { leave(); }

void OutputFile::open_locked(int64_t keep_bytes) {
  const int create = keep_bytes == kAfresh ? O_CREAT : 0;
  // The lock may be won on a file that its former owner has just renamed to the final name;
  // then the name no longer leads to this file, and truncating it would destroy a result.
  for (int attempt = 0; attempt < 10; ++attempt) {
    descriptor_ = ::open(path_.c_str(), O_RDWR | create | O_CLOEXEC, 0644);
    if (descriptor_ < 0) fail(errno, create ? "cannot create the file" : "cannot go on with it");
    const bool locked = ::flock(descriptor_, LOCK_EX | LOCK_NB) == 0;
    const int code = errno;
    if (!locked && code == EWOULDBLOCK) {
      ::close(descriptor_);
      descriptor_ = -1;
      fail(code, "another process is writing this file");
    }
    // Other failures mean a file system without locks (some NFS and Lustre mounts): go on without.
    struct stat ours {}, named {};
    const bool same = ::fstat(descriptor_, &ours) == 0 && ::stat(path_.c_str(), &named) == 0 &&
                      ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
    if (same) return cut(keep_bytes);
    ::close(descriptor_);
    descriptor_ = -1;
  }
  fail(EAGAIN, "the file keeps being replaced by another process");
}

void OutputFile::cut(int64_t keep_bytes) {
  const int64_t keep = keep_bytes == kAfresh ? 0 : keep_bytes;
  kept_ = keep_bytes != kAfresh;
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail(errno, "cannot stat the file");
  if (status.st_size < keep) {
    fail(EINVAL, "the file holds " + std::to_string(status.st_size) + " bytes, but " +
                     std::to_string(keep) + " were written before");
  }
  if (::ftruncate(descriptor_, static_cast<off_t>(keep)) != 0) fail(errno, "cannot cut the file");
  num_bytes_ = num_written_ = static_cast<uint64_t>(keep);
}

void OutputFile::append(const void* data, std::size_t num_bytes) {
  if (buffer_.size() + num_bytes > kBufferBytes) flush();
  if (num_bytes >= kBufferBytes) {
    write_at(static_cast<const char*>(data), num_bytes, num_written_);
    num_written_ += num_bytes;
  } else {
    const char* bytes = static_cast<const char*>(data);
    buffer_.insert(buffer_.end(), bytes, bytes + num_bytes);
  }
  num_bytes_ += num_bytes;
}

void OutputFile::flush() {
  write_at(buffer_.data(), buffer_.size(), num_written_);
  num_written_ += buffer_.size();
  buffer_.clear();
}

void OutputFile::overwrite(const void* data, std::size_t num_bytes, uint64_t at) {
  write_at(static_cast<const char*>(data), num_bytes, at);
}

void OutputFile::write_at(const char* data, std::size_t num_bytes, uint64_t at) {
  for (std::size_t done = 0; done < num_bytes;) {
    const ssize_t wrote =
        ::pwrite(descriptor_, data + done, num_bytes - done, static_cast<off_t>(at + done));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) {
      const int code = wrote == 0 ? ENOSPC : errno;
      fail(code, "cannot write " + std::to_string(num_bytes) + " bytes at offset " +
                     std::to_string(at) + " (" + std::to_string(done) + " of them written)");
    }
    done += static_cast<std::size_t>(wrote);
  }
}

void OutputFile::read_back(void* data, std::size_t num_bytes, uint64_t at) const {
  for (std::size_t done = 0; done < num_bytes;) {
    const ssize_t got = ::pread(descriptor_, static_cast<char*>(data) + done, num_bytes - done,
                                static_cast<off_t>(at + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      fail(got == 0 ? EIO : errno, "cannot read back " + std::to_string(num_bytes) +
                                       " bytes at offset " + std::to_string(at));
    }
    done += static_cast<std::size_t>(got);
  }
}

void OutputFile::sync() {
  flush();
  while (::fsync(descriptor_) != 0) {
    if (errno != EINTR) fail(errno, "cannot fsync " + std::to_string(num_bytes_) + " bytes");
  }
}

void OutputFile::sync_data() const {
  while (::fdatasync(descriptor_) != 0) {
    if (errno != EINTR) fail(errno, "cannot fdatasync " + std::to_string(num_written_) + " bytes");
  }
}

void OutputFile::rename() {
  if (std::rename(path_.c_str(), final_path_.c_str()) != 0) {
    fail(errno, "cannot rename the file to " + final_path_);
  }
  renamed_ = true;
}

void OutputFile::close() {
  if (descriptor_ < 0) return;
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (::close(descriptor) != 0 && errno != EINTR) fail(errno, "cannot close the file");
}

void OutputFile::abandon() noexcept {
  if (descriptor_ < 0) return;
  // Remove while the lock is still held, so that no other writer's file can be the one removed.
  if (!renamed_) ::unlink(path_.c_str());
  release();
}

void OutputFile::leave() noexcept {
  if (kept_) {
    release();
  } else {
    abandon();
  }
}

void OutputFile::release() noexcept {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  descriptor_ = -1;
}

void OutputFile::fail(int code, const std::string& tried) const {
  throw FileError(code, tried + ": " + std::strerror(code), path_);
}

void sync_folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::string folder =
      slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) {
    throw FileError(errno, std::string("cannot open the folder: ") + std::strerror(errno), folder);
  }
  const int result = ::fsync(descriptor);
  const int code = errno;
  ::close(descriptor);
  // EINVAL: a file system that has no fsync for folders; there is nothing more to be done there.
  if (result != 0 && code != EINVAL) {
    throw FileError(code, std::string("cannot fsync the folder: ") + std::strerror(code), folder);
  }
}
