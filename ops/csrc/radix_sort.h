// A stable sort of rows by non-negative keys, whose passes cover only the bits that the keys have.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

namespace perception3d {

struct KeyedRow {
  int64_t key;
  int64_t row;
};

// Returns whether they were in order already.
inline bool sort_by_key(std::vector<KeyedRow>& rows) {
  constexpr int kDigitBits = 11;
  constexpr int64_t kDigits = int64_t{1} << kDigitBits;
  int64_t largest = 0;
  bool sorted = true;
  for (size_t i = 0; i < rows.size(); ++i) {
    largest = std::max(largest, rows[i].key);
    sorted = sorted && (i == 0 || rows[i - 1].key <= rows[i].key);
  }
  if (sorted) return true;
  std::vector<KeyedRow> other(rows.size());
  for (int shift = 0; shift < 63 && (largest >> shift) > 0; shift += kDigitBits) {
    std::array<size_t, kDigits> next{};
    for (const KeyedRow& row : rows) ++next[(row.key >> shift) & (kDigits - 1)];
    size_t total = 0;
    for (size_t& place : next) total += std::exchange(place, total);
    for (const KeyedRow& row : rows) other[next[(row.key >> shift) & (kDigits - 1)]++] = row;
    rows.swap(other);
  }
  return false;
}

}  // namespace perception3d
