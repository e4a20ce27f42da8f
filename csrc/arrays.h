// Vectors to NumPy arrays without a copy.
#pragma once

#include <pybind11/numpy.h>

#include <memory>
#include <utility>
#include <vector>

// `columns` 0 makes a flat array.
template <typename T>
pybind11::array_t<T> to_array(std::vector<T>&& values, pybind11::ssize_t columns = 0) {
  auto owned = std::make_unique<std::vector<T>>(std::move(values));
  const auto count = static_cast<pybind11::ssize_t>(owned->size());
  T* data = owned->data();
  pybind11::capsule owner(owned.release(), [](void* p) { delete static_cast<std::vector<T>*>(p); });
  if (columns == 0) return pybind11::array_t<T>({count}, data, owner);
  return pybind11::array_t<T>({count / columns, columns}, data, owner);
}
