// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace shadowmmu::bench {

/// One record of the native format, a u64 in little endian:
///
///     63   62..54    53    52    51..36   35..0
///     end  zero      fetch store space    page
///
/// `page` is VA[47:12] (so bit 35 says kernel half) or a guest-physical page number. `end`: the address space is gone,
/// and its number does not come back; the other fields but `space` mean nothing.
struct Record {
  std::uint64_t word = 0;

  static constexpr unsigned kPageBits = 36;
  static constexpr unsigned kSpaceBits = 16;
  static constexpr std::uint64_t kPageMask = (std::uint64_t{1} << kPageBits) - 1;
  static constexpr std::uint64_t kStore = std::uint64_t{1} << 52;
  static constexpr std::uint64_t kFetch = std::uint64_t{1} << 53;
  static constexpr std::uint64_t kEnd = std::uint64_t{1} << 63;
  static constexpr std::uint64_t kReserved = kEnd - (std::uint64_t{1} << 54);

  [[nodiscard]] constexpr std::uint64_t page() const noexcept { return word & kPageMask; }
  [[nodiscard]] constexpr std::uint16_t space() const noexcept { return static_cast<std::uint16_t>(word >> kPageBits); }
  [[nodiscard]] constexpr bool store() const noexcept { return (word & kStore) != 0; }
  [[nodiscard]] constexpr bool fetch() const noexcept { return (word & kFetch) != 0; }
  [[nodiscard]] constexpr bool end() const noexcept { return (word & kEnd) != 0; }

  /// Requires: `page` fits 36 bits (what does not is cut off).
  [[nodiscard]] static constexpr Record make(std::uint64_t page, std::uint16_t space, bool store = false,
                                             bool fetch = false) noexcept {
    return {(page & kPageMask) | std::uint64_t{space} << kPageBits | (store ? kStore : 0) | (fetch ? kFetch : 0)};
  }
  [[nodiscard]] static constexpr Record make_end(std::uint16_t space) noexcept {
    return {std::uint64_t{space} << kPageBits | kEnd};
  }
  friend constexpr bool operator==(Record, Record) noexcept = default;
};
static_assert(sizeof(Record) == sizeof(std::uint64_t));

struct Trace {
  std::string name;  ///< the file's name without folder and known suffixes
  std::vector<Record> records;
};

enum class TraceFormat {
  Guess,          ///< by name, then, where the name says nothing, by the first line (Lackey only: it alone is text)
  Native,         ///< NAME.u64
  Lackey,         ///< NAME.lackey: the text of `valgrind --tool=lackey --trace-mem=yes`
  OracleGeneral,  ///< NAME.oracleGeneral, NAME.oracleGeneral.bin: libCacheSim's 24-byte structs
};

/// Why a trace was refused. what(): "FILE: record N: reason"; records count from 1 and are lines in Lackey's text. N is
/// the record at fault: where nothing could be read, the first one that is missing.
class TraceError : public std::runtime_error {
 public:
  TraceError(const std::string& file, std::uint64_t record, const std::string& reason)
      : std::runtime_error(file + ": record " + std::to_string(record) + ": " + reason), record_(record) {}
  [[nodiscard]] std::uint64_t record() const noexcept { return record_; }

 private:
  std::uint64_t record_;
};

/// No file, however small, makes the reader hold more than this: a zstd frame of a few bytes can say anything.
inline constexpr std::uint64_t kMaxRecords = std::uint64_t{1} << 28;

/// Effects: reads a trace whole; a name that ends in ".zst" is decompressed on the way (windows up to 2^27 bytes).
/// Throws: TraceError for whatever is not exactly such a trace: corrupt, truncated, foreign, empty, or longer than
/// `limit` records.
///
/// Lackey: an access that straddles a boundary gives a record a page; ` M` is a store; the address space is 0.
/// oracleGeneral: the object id is the page; time and size are not used.
[[nodiscard]] Trace load_trace(const std::string& path, TraceFormat format = TraceFormat::Guess,
                               std::uint64_t limit = kMaxRecords);

/// Effects: writes the native format, compressed (level 19, window 2^27 at most) where `path` ends in ".zst"; an older
/// file is replaced only when all is written.
/// Throws: TraceError where it cannot be written, or could not be read back: no records, or reserved bits set.
void save_trace(const std::string& path, const std::vector<Record>& records);

/// Returns: what Guess makes of the name alone, Guess where it says nothing.
[[nodiscard]] TraceFormat format_of_name(std::string_view path) noexcept;

}  // namespace shadowmmu::bench
