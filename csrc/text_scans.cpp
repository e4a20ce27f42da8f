// Python's doors to words, to rows looked for in texts and to shingles; the interpreter lock is
// released.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <tuple>

#include "arrays.h"
#include "row_search.h"
#include "shingles.h"
#include "texts.h"
#include "words.h"

namespace py = pybind11;

namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Int64Array = py::array_t<int64_t, py::array::c_style>;

texts::Flat flat_of(const Bytes& text, const Int64Array& offsets) {
  if (text.ndim() != 1 || offsets.ndim() != 1 || offsets.size() == 0) {
    throw std::invalid_argument("text and offsets must have one axis, and offsets an element");
  }
  return {text.data(), text.size(), offsets.data(), offsets.size() - 1};
}

void require_threads(int num_threads) {
  if (num_threads < 1 || num_threads > 1024) {
    throw std::invalid_argument("num_threads must be 1 to 1024, found " +
                                std::to_string(num_threads));
  }
}

using Table = std::tuple<std::vector<uint8_t>, std::vector<int32_t>, py::bytes, bool>;

words::Characters characters_of(const Table& table) {
  return {std::get<0>(table), std::get<1>(table), std::string(std::get<2>(table)),
          std::get<3>(table)};
}

words::Splitting splitting_of(int number) {
  if (number < 0 || number > 3) {
    throw std::invalid_argument("splitting " + std::to_string(number) + "; there are 0 to 3");
  }
  return static_cast<words::Splitting>(number);
}

// (form, first byte, end) of every word.
py::list split_words(const words::Splitter& splitter, int number, const Bytes& text) {
  const words::Splitting splitting = splitting_of(number);
  std::vector<uint8_t> mapped;
  std::vector<words::Origin> origins;
  words::Words found;
  {
    const py::gil_scoped_release release;
    const auto num_bytes = static_cast<std::size_t>(text.size());
    const uint32_t size = splitter.characters(splitting).map(text.data(), num_bytes, mapped,
                                                             &origins);
    splitter.split(splitting, mapped, size, found);
  }
  py::list list;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto [begin, end] = words::source_span(origins, found.begin(i), found.end(i));
    list.append(py::make_tuple(
        py::bytes(reinterpret_cast<const char*>(found.form(i)), found.form_bytes(i)), begin, end));
  }
  return list;
}

using RuleTuple = std::tuple<int, uint32_t, uint32_t, int, double, bool>;

row_search::Searcher* make_searcher(const words::Splitter& splitter,
                                    const std::vector<RuleTuple>& tuples) {
  std::vector<row_search::Rule> rules;
  for (const auto& [splitting, seed, least, need, share, whole_texts] : tuples) {
    if (need < 0 || need > 2) throw std::invalid_argument("need " + std::to_string(need));
    rules.push_back({splitting_of(splitting), seed, least, static_cast<row_search::Need>(need),
                     share, whole_texts});
  }
  return new row_search::Searcher(splitter, std::move(rules));
}

std::vector<int> add_rows(row_search::Searcher& searcher, uint32_t rule, const Bytes& text,
                          const Int64Array& offsets) {
  const texts::Flat flat = flat_of(text, offsets);
  flat.check("rows");
  const py::gil_scoped_release release;
  std::vector<int> said;
  for (int64_t i = 0; i < flat.count; ++i) {
    said.push_back(static_cast<int>(searcher.add_row(
        rule, flat.text + flat.offsets[i],
        static_cast<std::size_t>(flat.offsets[i + 1] - flat.offsets[i]))));
  }
  return said;
}

// int64 [hits, 9]: text, rule, row, words found, words of the row, span in the text, in the row.
py::array_t<int64_t> search(const row_search::Searcher& searcher, const Bytes& text,
                            const Int64Array& offsets, int num_threads) {
  const texts::Flat flat = flat_of(text, offsets);
  require_threads(num_threads);
  std::vector<int64_t> flat_hits;
  {
    const py::gil_scoped_release release;
    for (const row_search::Hit& hit : searcher.search(flat, num_threads)) {
      flat_hits.insert(flat_hits.end(), {hit.text, hit.rule, hit.row, hit.num_words, hit.row_words,
                                         hit.span.begin, hit.span.end, hit.row_span.begin,
                                         hit.row_span.end});
    }
  }
  return to_array(std::move(flat_hits), 9);
}

py::tuple bands(const shingles::Hasher& hasher, const Bytes& text, const Int64Array& offsets,
                int num_threads) {
  const texts::Flat flat = flat_of(text, offsets);
  flat.check("texts");
  require_threads(num_threads);
  py::array_t<uint64_t> found({flat.count, static_cast<int64_t>(hasher.num_bands())});
  Int64Array num_words(flat.count);
  uint64_t* const band_data = found.mutable_data();
  int64_t* const word_data = num_words.mutable_data();
  {
    const py::gil_scoped_release release;
    hasher.bands(flat, num_threads, band_data, word_data);
  }
  return py::make_tuple(found, num_words);
}

py::array_t<double> jaccard(const shingles::Hasher& hasher, const Bytes& text,
                            const Int64Array& offsets, const Int64Array& first,
                            const Int64Array& second, int num_threads) {
  const texts::Flat flat = flat_of(text, offsets);
  flat.check("texts");
  require_threads(num_threads);
  if (first.ndim() != 1 || second.ndim() != 1 || first.size() != second.size()) {
    throw std::invalid_argument("first and second must be as long as each other, with one axis");
  }
  for (const Int64Array* side : {&first, &second}) {
    for (py::ssize_t i = 0; i < side->size(); ++i) {
      if (side->data()[i] < 0 || side->data()[i] >= flat.count) {
        throw std::invalid_argument("a pair names text " + std::to_string(side->data()[i]) +
                                    " of " + std::to_string(flat.count));
      }
    }
  }
  py::array_t<double> index(first.size());
  double* const index_data = index.mutable_data();
  {
    const py::gil_scoped_release release;
    hasher.jaccard(flat, first.data(), second.data(), first.size(), num_threads, index_data);
  }
  return index;
}

}  // namespace

void bind_text_scans(py::module_& m) {
  py::class_<words::Splitter>(m, "Splitter")
      .def(py::init([](const Table& letters, const Table& chunks,
                       const std::vector<std::pair<std::string, int>>& commands,
                       const std::vector<std::string>& number_words) {
             return new words::Splitter(characters_of(letters), characters_of(chunks), commands,
                                        number_words);
           }),
           py::arg("letters"), py::arg("chunks"), py::arg("commands"), py::arg("number_words"))
      .def("split", &split_words, py::arg("splitting"), py::arg("text").noconvert());
  py::class_<row_search::Searcher>(m, "RowSearcher")
      .def(py::init(&make_searcher), py::arg("splitter"), py::arg("rules"),
           py::keep_alive<1, 2>())
      .def("add_rows", &add_rows, py::arg("rule"), py::arg("text").noconvert(),
           py::arg("offsets").noconvert())
      .def("build", &row_search::Searcher::build)
      .def("search", &search, py::arg("text").noconvert(), py::arg("offsets").noconvert(),
           py::arg("num_threads"));
  py::class_<shingles::Hasher>(m, "ShingleHasher")
      .def(py::init<const words::Splitter&, uint32_t, uint32_t, uint32_t, uint64_t>(),
           py::arg("splitter"), py::arg("shingle_words"), py::arg("num_bands"),
           py::arg("band_rows"), py::arg("seed"), py::keep_alive<1, 2>())
      .def("bands", &bands, py::arg("text").noconvert(), py::arg("offsets").noconvert(),
           py::arg("num_threads"))
      .def("jaccard", &jaccard, py::arg("text").noconvert(), py::arg("offsets").noconvert(),
           py::arg("first").noconvert(), py::arg("second").noconvert(), py::arg("num_threads"));
}
