// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <type_traits>

#include "shadowmmu/check.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu {

/// Every way an operation of the library can fail.
enum class Error : std::uint8_t {
  OutOfMemory,   ///< the Host gave no frame; nothing was changed
  Overlap,       ///< the gfn range overlaps a memslot
  BadRange,      ///< empty, wrapping, or beyond the 2^32 gfns that a side word can name
  TooManySlots,  ///< the slot directory is full
  NoSuchSlot,    ///< the slot id names no slot
  NotBacked,     ///< no memory there
  WindowBusy,    ///< too many write windows are open
  LogActive,     ///< not while the slot's dirty log is on
  LogInactive,   ///< the slot's dirty log is off
};

/// A value or an Error; small, trivially copyable, [[nodiscard]].
template <class T>
class [[nodiscard]] Result {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  constexpr Result(T v) noexcept : value_(v), ok_(true) {}       // NOLINT(google-explicit-constructor)
  constexpr Result(Error e) noexcept : error_(e), ok_(false) {}  // NOLINT(google-explicit-constructor)
  [[nodiscard]] constexpr bool ok() const noexcept { return ok_; }
  [[nodiscard]] constexpr explicit operator bool() const noexcept { return ok_; }
  /// Requires: ok(). A debug build reports an error that is used as a value; in a release build the value is T{}, which
  /// names nothing: a SlotId{} is no slot's.
  [[nodiscard]] constexpr T value() const noexcept {
    shadowmmu::detail::require(ok_, "shadowmmu: value() of a Result that holds an error; ask ok() first");
    return value_;
  }
  /// Requires: !ok(); reported as above.
  [[nodiscard]] constexpr Error error() const noexcept {
    shadowmmu::detail::require(!ok_, "shadowmmu: error() of a Result that holds a value; ask ok() first");
    return error_;
  }

 private:
  T value_{};
  Error error_{};
  bool ok_;
};

struct Unit {};
using Status = Result<Unit>;

/// A fault for the guest: the error code and CR2 exactly as hardware would report them.
struct PageFault {
  Gva address{};
  std::uint32_t error_code = 0;
};

/// Why the embedder must carry out an instruction for the guest.
enum class EmulateReason : std::uint8_t {
  TrackedWrite,     ///< it writes a guest page table that the MMU tracks
  SupervisorWrite,  ///< CR0.WP = 0 writes a read-only user page where SMAP forbids to say so in an entry
};

/// What a fault came to. Each kind must be handled; the fields beside it are valid as noted.
struct [[nodiscard]] FaultOutcome {
  enum class Kind : std::uint8_t {
    Resume,              ///< the entry is in place: run the guest
    Retry,               ///< something moved meanwhile: run the guest, it may fault again
    InjectPageFault,     ///< `error_code`, `address` (CR2)
    InjectGp,            ///< general protection, code 0
    InjectEptViolation,  ///< nested: `gpa`, `error_code` = exit qualification
    InjectEptMisconfig,  ///< nested: `gpa`
    Mmio,                ///< nobody's memory: `gpa`, `request`
    Emulate,             ///< `gpa`, `reason`
    Pending,             ///< the Host fetches the page: `token`
    HostError,           ///< poisoned backing: `gpa`
    OutOfMemory,         ///< nothing changed; free memory and run again
  };
  Kind kind = Kind::Resume;
  EmulateReason reason{};
  AccessRequest request{};
  std::uint32_t error_code = 0;
  std::uint64_t address = 0;
  Gpa gpa{};
  std::uint64_t token = 0;

  [[nodiscard]] static constexpr FaultOutcome of(Kind k) noexcept {
    FaultOutcome o;
    o.kind = k;
    return o;
  }
  [[nodiscard]] static constexpr FaultOutcome inject(PageFault f) noexcept {
    FaultOutcome o;
    o.kind = Kind::InjectPageFault;
    o.error_code = f.error_code;
    o.address = f.address.value();
    return o;
  }
  [[nodiscard]] static constexpr FaultOutcome at(Kind k, Gpa a, AccessRequest r) noexcept {
    FaultOutcome o;
    o.kind = k;
    o.gpa = a;
    o.request = r;
    return o;
  }
};

/// What a control-register write came to.
enum class [[nodiscard]] ControlOutcome : std::uint8_t{Done, InjectGp, OutOfMemory};

/// Whether a vCPU may enter the guest now.
enum class [[nodiscard]] EnterOutcome : std::uint8_t{Enter, Retry, OutOfMemory};

}  // namespace shadowmmu
