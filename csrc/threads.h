// The same work for many numbers, in threads; what comes out must not depend on who does what.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace threads {

// work(thread, i) for every i below `count`, the threads numbered from 0. Rethrows the first error.
template <typename Work>
void for_each(int64_t count, int num_threads, int64_t chunk, const Work& work) {
  std::atomic<int64_t> next{0};
  std::exception_ptr error;
  std::mutex guard;
  const auto loop = [&](int thread) {
    try {
      for (int64_t begin; (begin = next.fetch_add(chunk)) < count;) {
        for (int64_t i = begin; i < std::min(begin + chunk, count); ++i) work(thread, i);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(guard);
      if (!error) error = std::current_exception();
      next = count;
    }
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < num_threads; ++thread) others.emplace_back(loop, thread);
  loop(0);
  for (std::thread& other : others) other.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace threads
