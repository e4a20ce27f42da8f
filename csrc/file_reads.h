// Scattered parts of a file that is too large to be mapped: each by its own pread, so that nothing
// but the bytes asked for is read, is kept in this process, or can end it with a signal.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "output_file.h"

struct FileReads {
  int descriptor;
  const std::string& path;

  void read(char* into, int64_t size, int64_t begin) const {
    for (int64_t done = 0; done < size;) {
      const ssize_t got = ::pread(descriptor, into + done, static_cast<std::size_t>(size - done),
                                  static_cast<off_t>(begin + done));
      if (got > 0) {
        done += got;
      } else if (got == 0 || errno != EINTR) {
        const int code = got == 0 ? EIO : errno;
        throw FileError(code, "cannot read " + std::to_string(size) + " bytes at " +
                                  std::to_string(begin) + ": " +
                                  (got == 0 ? "the file ends there" : std::strerror(code)), path);
      }
    }
  }
};
