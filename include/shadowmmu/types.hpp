// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <compare>
#include <cstddef>
#include <cstdint>

/// Units of the field as types: they do not convert into one another silently.
namespace shadowmmu {

inline constexpr unsigned kPageShift = 12;
inline constexpr std::uint64_t kPageSize = std::uint64_t{1} << kPageShift;
inline constexpr std::uint64_t kPageMask = kPageSize - 1;
inline constexpr unsigned kEntriesPerTable = 512;

// The standard's are in a header for hosted programs.
template <class T>
[[nodiscard]] constexpr T min_of(T a, T b) noexcept {
  return b < a ? b : a;
}
template <class T>
[[nodiscard]] constexpr T max_of(T a, T b) noexcept {
  return a < b ? b : a;
}

/// A 64-bit quantity of one unit. Comparison only within the unit; arithmetic only with plain counts.
template <class Tag>
class Quantity {
 public:
  constexpr Quantity() noexcept = default;
  constexpr explicit Quantity(std::uint64_t v) noexcept : value_(v) {}
  [[nodiscard]] constexpr std::uint64_t value() const noexcept { return value_; }
  friend constexpr auto operator<=>(Quantity, Quantity) noexcept = default;
  friend constexpr Quantity operator+(Quantity q, std::uint64_t n) noexcept { return Quantity{q.value_ + n}; }
  friend constexpr Quantity operator-(Quantity q, std::uint64_t n) noexcept { return Quantity{q.value_ - n}; }
  friend constexpr std::uint64_t operator-(Quantity a, Quantity b) noexcept { return a.value_ - b.value_; }

 private:
  std::uint64_t value_ = 0;
};

using Gva = Quantity<struct GvaTag>;  ///< guest virtual address
using Gpa = Quantity<struct GpaTag>;  ///< guest physical address
using Hpa = Quantity<struct HpaTag>;  ///< host physical address
using Gfn = Quantity<struct GfnTag>;  ///< guest frame number (4 KiB)
using Pfn = Quantity<struct PfnTag>;  ///< host frame number (4 KiB)

[[nodiscard]] constexpr Gfn frame_of(Gpa a) noexcept { return Gfn{a.value() >> kPageShift}; }
[[nodiscard]] constexpr Pfn frame_of(Hpa a) noexcept { return Pfn{a.value() >> kPageShift}; }
[[nodiscard]] constexpr Gpa address_of(Gfn f) noexcept { return Gpa{f.value() << kPageShift}; }
[[nodiscard]] constexpr Hpa address_of(Pfn f) noexcept { return Hpa{f.value() << kPageShift}; }

/// Level of a paging structure or of the page that an entry maps: 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB, 4, 5.
class Level {
 public:
  constexpr Level() noexcept = default;
  constexpr explicit Level(unsigned v) noexcept : value_(static_cast<std::uint8_t>(v)) {}
  [[nodiscard]] constexpr unsigned value() const noexcept { return value_; }
  /// Frames of 4 KiB that an entry at this level covers (64-bit entry formats).
  [[nodiscard]] constexpr std::uint64_t frames() const noexcept { return std::uint64_t{1} << (9U * (value_ - 1U)); }
  /// Bit of an address at which this level's index begins.
  [[nodiscard]] constexpr unsigned shift() const noexcept { return kPageShift + 9U * (value_ - 1U); }
  [[nodiscard]] constexpr unsigned index(std::uint64_t address) const noexcept {
    return static_cast<unsigned>(address >> shift()) & (kEntriesPerTable - 1U);
  }
  [[nodiscard]] constexpr Level down() const noexcept { return Level{value_ - 1U}; }
  [[nodiscard]] constexpr Level up() const noexcept { return Level{value_ + 1U}; }
  friend constexpr auto operator<=>(Level, Level) noexcept = default;

 private:
  std::uint8_t value_ = 1;
};

/// Levels at which an entry may map more than 4 KiB.
inline constexpr Level kLargeLevels[] = {Level{2}, Level{3}};

/// Rights of a mapping. Read is implied for x86 formats; EPT may lack it (exec-only).
class Access {
 public:
  static constexpr std::uint8_t kWrite = 1, kUser = 2, kExec = 4, kAll = 7;
  constexpr Access() noexcept = default;
  constexpr explicit Access(unsigned bits) noexcept : bits_(static_cast<std::uint8_t>(bits & kAll)) {}
  [[nodiscard]] static constexpr Access all() noexcept { return Access{kAll}; }
  [[nodiscard]] constexpr unsigned bits() const noexcept { return bits_; }
  [[nodiscard]] constexpr bool write() const noexcept { return (bits_ & kWrite) != 0; }
  [[nodiscard]] constexpr bool user() const noexcept { return (bits_ & kUser) != 0; }
  [[nodiscard]] constexpr bool exec() const noexcept { return (bits_ & kExec) != 0; }
  [[nodiscard]] constexpr Access without(unsigned bits) const noexcept { return Access{bits_ & ~bits}; }
  [[nodiscard]] constexpr Access with(unsigned bits) const noexcept { return Access{bits_ | bits}; }
  friend constexpr Access operator&(Access a, Access b) noexcept {
    return Access{static_cast<unsigned>(a.bits_ & b.bits_)};
  }
  friend constexpr bool operator==(Access, Access) noexcept = default;

 private:
  std::uint8_t bits_ = 0;
};

/// x86 page-fault error code bits. Intel SDM vol. 3, 4.7; AMD APM vol. 2, 8.4.2.
namespace pferr {
inline constexpr std::uint32_t kPresent = 1U << 0, kWrite = 1U << 1, kUser = 1U << 2, kReserved = 1U << 3,
                               kFetch = 1U << 4;
}

/// What one memory access wants.
struct AccessRequest {
  bool write = false;
  bool fetch = false;
  bool user = false;
  [[nodiscard]] constexpr std::uint32_t error_bits() const noexcept {
    return (write ? pferr::kWrite : 0U) | (user ? pferr::kUser : 0U) | (fetch ? pferr::kFetch : 0U);
  }
};

/// What the library cannot see of the CPU at a fault: SMAP depends on it (SDM vol. 3, 4.6.1).
struct CpuMode {
  std::uint8_t cpl = 0;
  bool ac = false;  ///< RFLAGS.AC
};

/// Architectural control registers as the guest sees them.
struct Controls {
  std::uint64_t cr0 = 0, cr4 = 0, efer = 0;
  friend constexpr bool operator==(const Controls&, const Controls&) noexcept = default;
};

/// Register values that the embedder loads into the hardware while the guest runs.
struct HwState {
  std::uint64_t cr0 = 0, cr3 = 0, cr4 = 0, efer = 0;
};

namespace cr0 {
inline constexpr std::uint64_t kPe = 1U << 0, kWp = 1U << 16, kPg = 1U << 31;
}
namespace cr4 {
inline constexpr std::uint64_t kPse = 1U << 4, kPae = 1U << 5, kPge = 1U << 7, kLa57 = 1U << 12, kPcide = 1U << 17,
                               kSmep = 1U << 20, kSmap = 1U << 21, kPke = 1U << 22, kPks = 1U << 24;
}
namespace efer {
inline constexpr std::uint64_t kLme = 1U << 8, kLma = 1U << 10, kNxe = 1U << 11;
}

/// Why a frame is asked for: a hardware-walked table, one that a 32-bit CR3 must reach, or library metadata.
enum class FrameKind : std::uint8_t { Table, TableBelow4G, Metadata };

/// Memory type as the format encodes it (SDM vol. 3, 11.3 encodings).
enum class MemoryType : std::uint8_t {
  Uncached = 0,
  WriteCombining = 1,
  WriteThrough = 4,
  WriteProtected = 5,
  WriteBack = 6
};

/// The Host's answer to "what backs this gfn".
struct Backing {
  enum class Kind : std::uint8_t { None, Memory, Device, ReadOnly, Pending, Poisoned };
  Kind kind = Kind::None;
  MemoryType type = MemoryType::WriteBack;
  Level level{1};           ///< largest naturally aligned host page that holds pfn
  bool writable = true;     ///< host rights; false forces a read-only mapping now (copy-on-write, say)
  Pfn pfn{};                ///< frame of the very gfn asked for
  std::uint64_t token = 0;  ///< Pending: what the embedder waits for
};

/// A translation for an emulator: where it goes and what it allows.
struct Translation {
  Gpa gpa{};
  Access rights{};
  Level level{1};
};

}  // namespace shadowmmu
