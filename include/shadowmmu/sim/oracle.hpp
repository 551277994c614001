// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>

#include "shadowmmu/types.hpp"

/// What an x86 CPU does with a guest's own tables, read straight from the manual and deliberately plain.
/// It shares no code with any other walker here, so that a mistake must be made twice to go unseen.
/// Source: Intel SDM vol. 3, chapter 4 (4.3 32-bit, 4.4 PAE, 4.5 4-level, 4.6 rights, 4.7 errors, 4.8 A and D).
namespace shadowmmu::sim {

/// Guest physical memory as the oracle reads it; false where there is none.
template <class M>
concept GuestReader = requires(M& memory, Gpa at, unsigned bytes, std::uint64_t& value) {
  { memory.read(at, bytes, value) } -> std::convertible_to<bool>;
};

template <class M>
concept GuestWriter = requires(M& memory, Gpa at, unsigned bytes, std::uint64_t value) {
  { memory.write(at, bytes, value) } -> std::convertible_to<bool>;
};

/// The guest's CPU, as far as paging depends on it.
struct OracleCpu {
  Controls controls{};
  std::uint64_t cr3 = 0;
  std::array<std::uint64_t, 4> pdptes{};  ///< the PDPTE registers; used in PAE mode only
  unsigned max_phys_addr = 40;            ///< guest MAXPHYADDR, 32..52
  bool has_1g_pages = true;               ///< CPUID.80000001H:EDX.Page1GB
};

struct OracleAccess {
  AccessRequest request{};
  CpuMode mode{};
  bool implicit_supervisor = false;  ///< a system-structure access; implied when request.user is false at CPL 3
};

/// One guest entry with the Accessed and Dirty flags that the CPU sets in it.
struct EntryUpdate {
  Gpa gpa{};
  unsigned bytes = 0;
  std::uint64_t value = 0;
};

/// At most one update per level; two levels that use one entry (a self-map) share one update.
class EntryUpdates {
 public:
  [[nodiscard]] const EntryUpdate* begin() const noexcept { return list_.data(); }
  [[nodiscard]] const EntryUpdate* end() const noexcept { return list_.data() + size_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] const EntryUpdate& operator[](std::size_t i) const noexcept { return list_[i]; }

  void add(EntryUpdate update) noexcept {
    for (std::size_t i = 0; i < size_; ++i) {
      if (list_[i].gpa == update.gpa) {
        list_[i].value |= update.value;
        return;
      }
    }
    assert(size_ < list_.size());
    list_[size_++] = update;
  }

 private:
  std::array<EntryUpdate, 5> list_{};
  std::size_t size_ = 0;
};

/// What the access comes to.
struct OracleVerdict {
  bool fault = false;
  std::uint32_t error_code = 0;  ///< exact, when `fault`
  Gpa gpa{};                     ///< when not `fault`
  Level level{1};                ///< of the page; a 4 MiB page is level 2, the untranslated address space level 1
  Access rights{};               ///< conjunction over the entries, before CR0.WP, SMEP and SMAP
  EntryUpdates updates;          ///< made exactly when the access succeeds; empty on a fault
  EntryUpdates may_update;       ///< on a fault: Accessed flags of upper entries that the CPU may or may not have set
};

template <GuestReader Memory>
class Oracle {
 public:
  Oracle(Memory& memory, const OracleCpu& cpu) noexcept : memory_(memory), cpu_(cpu) {}

  /// Effects: none on memory: the flags are reported, `apply` writes them. Requires: a canonical address.
  [[nodiscard]] OracleVerdict translate(Gva gva, const OracleAccess& access) const {
    const std::uint64_t linear = long_mode() ? gva.value() : (gva.value() & bits(31, 0));
    OracleVerdict verdict;
    verdict.rights = Access::all();
    if (!paging()) {
      verdict.gpa = Gpa{linear};
      return verdict;
    }
    if (long_mode()) return four_level(linear, access, verdict);
    return pae() ? pae_paging(linear, access, verdict) : thirty_two_bit(linear, access, verdict);
  }

  /// Effects: writes the verdict's updates, as the CPU does when the access succeeds.
  static void apply(Memory& memory, const OracleVerdict& verdict) requires GuestWriter<Memory> {
    for (const EntryUpdate& update : verdict.updates) (void)memory.write(update.gpa, update.bytes, update.value);
  }

  /// Returns: the PDPTE registers that MOV to CR3 would load; absent memory reads as 0. SDM 4.4.1.
  [[nodiscard]] static std::array<std::uint64_t, 4> read_pdptes(Memory& memory, std::uint64_t cr3) {
    std::array<std::uint64_t, 4> registers{};
    for (unsigned i = 0; i < 4; ++i) {
      if (!memory.read(Gpa{(cr3 & bits(31, 5)) + 8U * i}, 8, registers[i])) registers[i] = 0;
    }
    return registers;
  }

  /// Returns: whether loading these PDPTEs succeeds; false stands for #GP(0). SDM 4.4.1, table 4-8.
  [[nodiscard]] static bool pdptes_loadable(const std::array<std::uint64_t, 4>& pdptes, unsigned max_phys_addr) {
    for (const std::uint64_t entry : pdptes) {
      if (bit(entry, 0) && (entry & (bits(2, 1) | bits(8, 5) | bits(63, max_phys_addr))) != 0) return false;
    }
    return true;
  }

 private:
  [[nodiscard]] static bool bit(std::uint64_t value, unsigned n) { return ((value >> n) & 1U) != 0; }
  /// Returns: a mask of bits high..low, as the manual writes them; empty when high < low.
  [[nodiscard]] static std::uint64_t bits(unsigned high, unsigned low) {
    std::uint64_t mask = 0;
    for (unsigned n = low; n <= high; ++n) mask |= std::uint64_t{1} << n;
    return mask;
  }

  [[nodiscard]] bool paging() const { return bit(cpu_.controls.cr0, 31); }
  [[nodiscard]] bool write_protect() const { return bit(cpu_.controls.cr0, 16); }
  [[nodiscard]] bool pse() const { return bit(cpu_.controls.cr4, 4); }
  [[nodiscard]] bool pae() const { return bit(cpu_.controls.cr4, 5); }
  [[nodiscard]] bool la57() const { return bit(cpu_.controls.cr4, 12); }
  [[nodiscard]] bool smep() const { return bit(cpu_.controls.cr4, 20); }
  [[nodiscard]] bool smap() const { return bit(cpu_.controls.cr4, 21); }
  [[nodiscard]] bool long_mode() const { return bit(cpu_.controls.efer, 10); }
  [[nodiscard]] bool nxe() const { return bit(cpu_.controls.efer, 11); }

  [[nodiscard]] std::uint64_t entry_at(Gpa at, unsigned bytes) const {
    std::uint64_t entry = 0;
    return memory_.read(at, bytes, entry) ? entry : 0;
  }

  // SDM 4.3, figure 4-4 and table 4-3. Never execute-disable, never a reserved bit but in a 4 MiB PDE.
  [[nodiscard]] OracleVerdict thirty_two_bit(std::uint64_t linear, const OracleAccess& access, OracleVerdict v) const {
    const Gpa pde_at{(cpu_.cr3 & bits(31, 12)) + ((linear >> 22) & 0x3ff) * 4};
    const std::uint64_t pde = entry_at(pde_at, 4);
    if (!bit(pde, 0)) return not_present(access, v);
    if (pse() && bit(pde, 7)) {
      const unsigned m = cpu_.max_phys_addr < 40 ? cpu_.max_phys_addr : 40;
      if ((pde & bits(21, m - 19)) != 0) return reserved(access, v);
      add_rights(v, pde, false);
      const std::uint64_t high = (pde & bits(20, 13)) >> 13 << 32;
      return page(pde_at, 4, pde, high | (pde & bits(31, 22)) | (linear & bits(21, 0)), 2, access, v);
    }
    add_rights(v, pde, false);
    upper(pde_at, 4, pde, v);
    const Gpa pte_at{(pde & bits(31, 12)) + ((linear >> 12) & 0x3ff) * 4};
    const std::uint64_t pte = entry_at(pte_at, 4);
    if (!bit(pte, 0)) return not_present(access, v);
    add_rights(v, pte, false);
    return page(pte_at, 4, pte, (pte & bits(31, 12)) | (linear & bits(11, 0)), 1, access, v);
  }

  // SDM 4.4, tables 4-8 to 4-11. A PDPTE register gives no rights and has no Accessed flag.
  [[nodiscard]] OracleVerdict pae_paging(std::uint64_t linear, const OracleAccess& access, OracleVerdict v) const {
    const std::uint64_t always = bits(62, cpu_.max_phys_addr) | (nxe() ? 0 : bits(63, 63));
    const std::uint64_t pdpte = cpu_.pdptes[linear >> 30];
    if (!bit(pdpte, 0)) return not_present(access, v);
    const Gpa pde_at{(pdpte & bits(51, 12)) + ((linear >> 21) & 0x1ff) * 8};
    const std::uint64_t pde = entry_at(pde_at, 8);
    if (!bit(pde, 0)) return not_present(access, v);
    if ((pde & always) != 0) return reserved(access, v);
    add_rights(v, pde, true);
    if (bit(pde, 7)) {
      if ((pde & bits(20, 13)) != 0) return reserved(access, v);
      return page(pde_at, 8, pde, (pde & bits(51, 21)) | (linear & bits(20, 0)), 2, access, v);
    }
    upper(pde_at, 8, pde, v);
    const Gpa pte_at{(pde & bits(51, 12)) + ((linear >> 12) & 0x1ff) * 8};
    const std::uint64_t pte = entry_at(pte_at, 8);
    if (!bit(pte, 0)) return not_present(access, v);
    if ((pte & always) != 0) return reserved(access, v);
    add_rights(v, pte, true);
    return page(pte_at, 8, pte, (pte & bits(51, 12)) | (linear & bits(11, 0)), 1, access, v);
  }

  // SDM 4.5, tables 4-14 to 4-20; with CR4.LA57 one level more, whose entries are like PML4 entries.
  [[nodiscard]] OracleVerdict four_level(std::uint64_t linear, const OracleAccess& access, OracleVerdict v) const {
    const std::uint64_t always = bits(51, cpu_.max_phys_addr) | (nxe() ? 0 : bits(63, 63));
    std::uint64_t table = cpu_.cr3 & bits(51, 12);
    for (unsigned level = la57() ? 5 : 4; level > 1; --level) {
      const unsigned low = 12 + 9 * (level - 1);
      const Gpa at{table + ((linear >> low) & 0x1ff) * 8};
      const std::uint64_t entry = entry_at(at, 8);
      if (!bit(entry, 0)) return not_present(access, v);
      if ((entry & always) != 0) return reserved(access, v);
      add_rights(v, entry, true);
      if (bit(entry, 7)) {
        if (level >= 4 || (level == 3 && !cpu_.has_1g_pages)) return reserved(access, v);
        if ((entry & bits(low - 1, 13)) != 0) return reserved(access, v);
        return page(at, 8, entry, (entry & bits(51, low)) | (linear & bits(low - 1, 0)), level, access, v);
      }
      upper(at, 8, entry, v);
      table = entry & bits(51, 12);
    }
    const Gpa at{table + ((linear >> 12) & 0x1ff) * 8};
    const std::uint64_t pte = entry_at(at, 8);
    if (!bit(pte, 0)) return not_present(access, v);
    if ((pte & always) != 0) return reserved(access, v);
    add_rights(v, pte, true);
    return page(at, 8, pte, (pte & bits(51, 12)) | (linear & bits(11, 0)), 1, access, v);
  }

  static void add_rights(OracleVerdict& v, std::uint64_t entry, bool has_xd) {
    if (!bit(entry, 1)) v.rights = v.rights.without(Access::kWrite);
    if (!bit(entry, 2)) v.rights = v.rights.without(Access::kUser);
    if (has_xd && bit(entry, 63)) v.rights = v.rights.without(Access::kExec);
  }

  // SDM 4.8: using an entry sets its Accessed flag.
  static void upper(Gpa at, unsigned bytes, std::uint64_t entry, OracleVerdict& v) {
    if (!bit(entry, 5)) v.updates.add({at, bytes, entry | bits(5, 5)});
  }

  [[nodiscard]] OracleVerdict page(Gpa at, unsigned bytes, std::uint64_t entry, std::uint64_t address, unsigned level,
                                   const OracleAccess& access, OracleVerdict v) const {
    if (!allowed(v.rights, access)) return fault(pferr::kPresent, access, v);
    std::uint64_t marked = entry | bits(5, 5);
    if (access.request.write) marked |= bits(6, 6);
    if (marked != entry) v.updates.add({at, bytes, marked});
    v.gpa = Gpa{address};
    v.level = Level{level};
    return v;
  }

  // SDM 4.6.1, in its order: supervisor-mode accesses, then user-mode accesses.
  [[nodiscard]] bool allowed(Access rights, const OracleAccess& access) const {
    const bool user_address = rights.user();
    if (access.request.user) {
      if (!user_address) return false;
      if (access.request.fetch) return rights.exec();
      return !access.request.write || rights.write();
    }
    if (access.request.fetch) {
      if (user_address && smep()) return false;
      return rights.exec();
    }
    if (user_address && smap()) {
      const bool implicit = access.implicit_supervisor || access.mode.cpl == 3;
      if (implicit || !access.mode.ac) return false;
    }
    return !access.request.write || !write_protect() || rights.write();
  }

  [[nodiscard]] OracleVerdict not_present(const OracleAccess& access, OracleVerdict v) const {
    return fault(0, access, v);
  }
  [[nodiscard]] OracleVerdict reserved(const OracleAccess& access, OracleVerdict v) const {
    return fault(pferr::kPresent | pferr::kReserved, access, v);
  }

  // SDM 4.7: bit 4 is reported only if execute-disable is in use or SMEP is on.
  [[nodiscard]] OracleVerdict fault(std::uint32_t code, const OracleAccess& access, OracleVerdict v) const {
    if (access.request.write) code |= pferr::kWrite;
    if (access.request.user) code |= pferr::kUser;
    if (access.request.fetch && ((pae() && nxe()) || smep())) code |= pferr::kFetch;
    v.fault = true;
    v.error_code = code;
    v.may_update = v.updates;
    v.updates = EntryUpdates{};
    return v;
  }

  Memory& memory_;
  OracleCpu cpu_;
};

}  // namespace shadowmmu::sim
