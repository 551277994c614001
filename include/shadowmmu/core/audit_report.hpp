// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

namespace shadowmmu {

/// Verdict of a full invariant check.
struct AuditReport {
  std::uint64_t violations = 0;
  /// Those of them that a write to a guest table explains of which the Mmu was not told yet (guest_wrote).
  std::uint64_t unreported = 0;
  const char* first = nullptr;  ///< what the first violation was, of those that no such write explains if there are any
  std::uint64_t at = 0;         ///< page index or gfn of it
  std::uint32_t pages = 0;      ///< linked
  std::uint32_t invalid = 0;    ///< unlinked roots still in use
  std::uint32_t orphans = 0;    ///< parentless non-roots
  std::uint64_t leaves = 0;
  std::uint64_t rmap_entries = 0;
};

namespace core {

/// What the parts of the audit write down.
class AuditNotes {
 public:
  void expect(bool ok, const char* what, std::uint64_t at) noexcept {
    if (ok) return;
    if (report.violations++ == report.unreported) note(what, at);
  }
  /// For what compares with a guest's table as it is now.
  void expect_of_guest(bool ok, const char* what, std::uint64_t at) noexcept {
    if (ok) return;
    report.unreported += 1;
    if (report.violations++ == 0) note(what, at);
  }

  AuditReport report;

 private:
  void note(const char* what, std::uint64_t at) noexcept {
    report.first = what;
    report.at = at;
  }
};

}  // namespace core
}  // namespace shadowmmu
