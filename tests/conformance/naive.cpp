// SPDX-License-Identifier: BSL-1.0
// A second MMU, small and obvious, which includes nothing of the library but the interface of the kit: whatever may
// have changed, it throws every table away and flushes everything. Each vCPU has tables of its own, of 4 KiB pages,
// filled by one fault at a time. Guest tables are written freely: who changes one has to flush before it counts, and
// every flush begins anew.
#include "conformance/naive.hpp"

#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

namespace {

constexpr std::uint64_t kPresent = 1, kWrite = 2, kUser = 4, kAccessed = 0x20, kDirty = 0x40, kLarge = 0x80;
constexpr std::uint64_t kNoExec = std::uint64_t{1} << 63, kFrame = 0x000f'ffff'ffff'f000;
constexpr std::uint64_t kCr0Pg = std::uint64_t{1} << 31, kCr0Wp = 1U << 16, kCr0CdNw = 3U << 29;
constexpr std::uint64_t kCr4Pse = 1U << 4, kCr4Pae = 1U << 5, kCr4Pge = 1U << 7, kCr4Smep = 1U << 20,
                        kCr4Smap = 1U << 21;
constexpr std::uint64_t kLme = 1U << 8, kLma = 1U << 10, kNxe = 1U << 11;
constexpr std::uint32_t kErrPresent = 1, kErrWrite = 2, kErrUser = 4, kErrReserved = 8, kErrFetch = 16;

std::uint64_t bits(unsigned high, unsigned low) {
  return high < low ? 0 : (~std::uint64_t{0} >> (63 - (high - low))) << low;
}

struct Vcpu {
  std::uint64_t cr0 = 0, cr3 = 0, cr4 = 0, efer = 0;
  std::uint64_t pdpte[4] = {};
  std::uint64_t root = 0;             ///< of the tables that the hardware walks
  std::vector<std::uint64_t> tables;  ///< all of them
};

struct Table {
  alignas(4096) std::uint64_t entry[512];
};

/// Where an access leads in the guest's own tables, or its fault.
struct Walk {
  bool fault = false;
  std::uint32_t code = 0;
  std::uint64_t gpa = 0;
  bool write = true, user = true, exec = true;
  bool dirty = true;  ///< the entry's D flag, after this access
};

class Naive {
 public:
  Naive(shadowmmu_kit_machine* machine, const shadowmmu_kit_cpu& cpu, NaiveMistake mistake, bool own_tables)
      : machine_(machine), cpu_(cpu), mistake_(mistake), own_tables_(own_tables) {}
  ~Naive() { drop_everything(); }

  int set_control(unsigned n, std::uint64_t cr0, std::uint64_t cr4, std::uint64_t efer) {
    Vcpu& v = vcpu_[n];
    const bool pae = (cr0 & kCr0Pg) != 0 && (cr4 & kCr4Pae) != 0 && (efer & kLma) == 0;
    const bool was_pae = (v.cr0 & kCr0Pg) != 0 && (v.cr4 & kCr4Pae) != 0 && (v.efer & kLma) == 0;
    const bool reload =
        !was_pae || ((cr0 ^ v.cr0) & kCr0CdNw) != 0 || ((cr4 ^ v.cr4) & (kCr4Pae | kCr4Pge | kCr4Pse | kCr4Smep)) != 0;
    if (pae && reload && !load_pdptes(v, v.cr3)) return 1;
    const bool only_wp = cr4 == v.cr4 && efer == v.efer && (cr0 ^ v.cr0) == kCr0Wp;
    v.cr0 = cr0;
    v.cr4 = cr4;
    v.efer = efer;
    if (mistake_ == NaiveMistake::WrongRole && only_wp) return 0;
    start_anew(n);
    return 0;
  }
  int set_cr3(unsigned n, std::uint64_t value) {
    Vcpu& v = vcpu_[n];
    if (long_mode(v) && (value & bits(63, cpu_.guest_address_bits)) != 0) return 1;
    if (paging(v) && (v.cr4 & kCr4Pae) != 0 && !long_mode(v) && !load_pdptes(v, value)) return 1;
    v.cr3 = value;
    start_anew(n);
    return 0;
  }
  int enter(unsigned n, shadowmmu_kit_registers* hw) {
    Vcpu& v = vcpu_[n];
    if (v.root == 0) v.root = new_table(v);
    if (v.root == 0) return 1;
    hw->cr0 = v.cr0 | kCr0Pg | kCr0Wp;
    hw->cr3 = v.root;
    hw->cr4 = v.cr4 | kCr4Pae;
    if (!paging(v)) hw->cr4 &= ~(kCr4Smep | kCr4Smap);
    hw->efer = (v.efer & ~(kLma | kLme)) | kNxe | (long_mode(v) ? kLma | kLme : 0);
    if (!long_mode(v))  // the CPU reads PDPTEs when CR3 is loaded: all four are there beforehand
      for (unsigned i = 0; i < 4; ++i)
        if (entries(v.root)[i] == 0) {
          const std::uint64_t t = new_table(v);
          if (t == 0) return 1;
          entries(v.root)[i] = t | kPresent;
        }
    return 0;
  }
  void fault(unsigned n, std::uint64_t a, std::uint32_t code, unsigned cpl, bool ac, shadowmmu_kit_outcome* o) {
    Vcpu& v = vcpu_[n];
    const bool write = (code & kErrWrite) != 0, user = (code & kErrUser) != 0, fetch = (code & kErrFetch) != 0;
    const Walk w = walk(v, a, write, user, fetch, cpl, ac);
    if (w.fault) return answer(o, SHADOWMMU_KIT_INJECT, w.code, a, 0);
    const shadowmmu_kit_backing b = shadowmmu_kit_backing_of(machine_, w.gpa >> 12, write ? 1 : 0);
    if (b.kind == SHADOWMMU_KIT_NOTHING || (b.kind == SHADOWMMU_KIT_ROM && write))
      return answer(o, SHADOWMMU_KIT_MMIO, 0, a, w.gpa);
    bool writable = w.write && w.dirty && b.kind == SHADOWMMU_KIT_MEMORY && b.writable != 0;
    if (mistake_ == NaiveMistake::LostDirty) writable = w.write && b.kind == SHADOWMMU_KIT_MEMORY && b.writable != 0;
    bool for_user = w.user, exec = w.exec;
    if (write && !user && !w.write) {  // CR0.WP is clear, and the hardware's is not
      if ((v.cr4 & kCr4Smap) != 0) return answer(o, SHADOWMMU_KIT_EMULATE, 0, a, w.gpa);
      writable = true;
      if (for_user && (v.cr4 & kCr4Smep) != 0) exec = false;
      for_user = false;
    }
    if (logged_.count(w.gpa >> 12) != 0) {
      writable = writable && write;
      if (write) mark(w.gpa >> 12);
    }
    std::uint64_t table = v.root;
    for (unsigned level = long_mode(v) ? 4 : 3; level > 1; --level) {
      std::uint64_t& e = entries(table)[index(a, level)];
      if (e == 0) {
        const std::uint64_t t = new_table(v);
        if (t == 0) return answer(o, SHADOWMMU_KIT_OUT_OF_MEMORY, 0, a, 0);
        e = t | kPresent | kWrite | kUser;
      }
      table = e & kFrame;
    }
    const std::uint64_t cache = b.type == 6 ? 0 : b.type == 4 ? 8 : 0x18;
    std::uint64_t& leaf = entries(table)[index(a, 1)];
    leaf = b.frame << 12 | kPresent | cache | (writable ? kWrite : 0) | (for_user ? kUser : 0) | (exec ? 0 : kNoExec);
    shadowmmu_kit_flush(machine_, n, 0, a >> 12, 1);
    answer(o, SHADOWMMU_KIT_RESUME, 0, a, 0);
  }
  void invlpg(unsigned n) {
    if (mistake_ != NaiveMistake::MissingFlush) return start_anew(n);
    // The tables are as good as new; the TLB was forgotten.
    for (const std::uint64_t t : vcpu_[n].tables)
      if (t != vcpu_[n].root && !is_directory(vcpu_[n], t)) std::memset(entries(t), 0, 4096);
  }
  void start_anew(unsigned n) {
    Vcpu& v = vcpu_[n];
    shadowmmu_kit_kick(machine_, n);
    shadowmmu_kit_flush(machine_, n, 1, 0, 0);
    for (const std::uint64_t t : v.tables) free_table(t);
    v.tables.clear();
    v.root = 0;
  }
  void drop_everything() {
    for (unsigned n = 0; n < SHADOWMMU_KIT_VCPUS; ++n) start_anew(n);
  }

  /// Returns: where a table of its own lies; nullptr if it has none there.
  void* own_table(std::uint64_t table) {
    const auto found = own_.find(table);
    return found == own_.end() ? nullptr : found->second->entry;
  }

  void wrote(std::uint64_t gpa, std::uint64_t bytes) {
    for (std::uint64_t gfn = gpa >> 12; gfn <= (gpa + bytes - 1) >> 12; ++gfn) mark(gfn);
    drop_everything();
  }
  int start_log(std::uint64_t first, std::uint64_t pages) {
    for (std::uint64_t g = first; g < first + pages; ++g) logged_[g] = false;
    drop_everything();
    return 0;
  }
  int stop_log(std::uint64_t first, std::uint64_t pages) {
    logged_.erase(logged_.lower_bound(first), logged_.lower_bound(first + pages));
    return 0;
  }
  int fetch_log(std::uint64_t first, std::uint64_t pages, std::uint64_t* out) {
    for (std::uint64_t i = 0; i < pages; ++i)
      if (bool& written = logged_[first + i]; written) {
        out[i / 64] |= std::uint64_t{1} << i % 64;
        written = false;
      }
    drop_everything();
    return 0;
  }

 private:
  static bool paging(const Vcpu& v) { return (v.cr0 & kCr0Pg) != 0; }
  static bool long_mode(const Vcpu& v) { return (v.efer & kLma) != 0; }
  static unsigned index(std::uint64_t a, unsigned level) { return a >> (12 + 9 * (level - 1)) & 511; }
  static void answer(shadowmmu_kit_outcome* o, int what, std::uint32_t code, std::uint64_t a, std::uint64_t gpa) {
    *o = {what, code, a, gpa};
  }
  std::uint64_t* entries(std::uint64_t table) {
    return static_cast<std::uint64_t*>(own_tables_ ? own_table(table) : shadowmmu_kit_to_virt(machine_, table));
  }
  void free_table(std::uint64_t table) {
    if (!own_tables_) return shadowmmu_kit_free_frame(machine_, table);
    shadowmmu_kit_frame_unused(machine_, table);
    own_.erase(table);
  }
  std::uint64_t new_table(Vcpu& v) {
    const std::uint64_t t = own_tables_ ? next_own_ += 4096 : shadowmmu_kit_alloc_frame(machine_);
    if (t == 0) return 0;
    if (own_tables_) own_[t] = std::make_unique<Table>();
    std::memset(entries(t), 0, 4096);
    v.tables.push_back(t);
    return t;
  }
  bool is_directory(const Vcpu& v, std::uint64_t table) {
    for (unsigned i = 0; i < 512; ++i) {
      const std::uint64_t e = entries(table)[i];
      for (const std::uint64_t t : v.tables)
        if ((e & kPresent) != 0 && (e & kFrame) == t) return true;
    }
    return false;
  }
  void mark(std::uint64_t gfn) {
    if (const auto found = logged_.find(gfn); found != logged_.end()) found->second = true;
  }

  std::uint64_t read(std::uint64_t gpa, unsigned size) {
    const auto* page = static_cast<const unsigned char*>(shadowmmu_kit_guest_page(machine_, gpa >> 12));
    std::uint64_t value = 0;
    if (page != nullptr) std::memcpy(&value, page + (gpa & 0xfff), size);
    return value;
  }
  bool load_pdptes(Vcpu& v, std::uint64_t cr3) {
    std::uint64_t fresh[4];
    for (unsigned i = 0; i < 4; ++i) {
      fresh[i] = read((cr3 & 0xffff'ffe0) + 8 * i, 8);
      const std::uint64_t reserved = bits(2, 1) | bits(8, 5) | bits(63, cpu_.guest_address_bits);
      if ((fresh[i] & kPresent) != 0 && (fresh[i] & reserved) != 0) return false;
    }
    std::memcpy(v.pdpte, fresh, sizeof fresh);
    return true;
  }

  /// SDM vol. 3, chapter 4: as the CPU would walk the guest's tables.
  Walk walk(Vcpu& v, std::uint64_t a, bool write, bool user, bool fetch, unsigned cpl, bool ac) {
    Walk w;
    if (!paging(v)) {
      w.gpa = a & 0xffff'ffff;
      return w;
    }
    const bool nxe = (v.efer & kNxe) != 0, pae = (v.cr4 & kCr4Pae) != 0, smep = (v.cr4 & kCr4Smep) != 0;
    const auto faults = [&](std::uint32_t code) {
      w.fault = true;
      w.code = code | (write ? kErrWrite : 0) | (user ? kErrUser : 0);
      if (fetch && ((pae && nxe) || smep)) w.code |= kErrFetch;
      return w;
    };
    const unsigned size = pae ? 8 : 4, phys = cpu_.guest_address_bits;
    std::uint64_t table = pae ? v.cr3 & kFrame : v.cr3 & 0xffff'f000;
    unsigned level = long_mode(v) ? 4 : 2;
    if (pae && !long_mode(v)) {
      if ((v.pdpte[a >> 30 & 3] & kPresent) == 0) return faults(0);
      table = v.pdpte[a >> 30 & 3] & kFrame;
    }
    struct Used {
      std::uint64_t at, entry;
    } used[4];
    unsigned count = 0;
    for (;; --level) {
      const unsigned shift = 12 + (pae ? 9 : 10) * (level - 1);
      const std::uint64_t at = table + (a >> shift & (pae ? 511 : 1023)) * size;
      const std::uint64_t e = read(at, size);
      if ((e & kPresent) == 0) return faults(0);
      const bool large = level > 1 && (e & kLarge) != 0 && (pae || (v.cr4 & kCr4Pse) != 0);
      std::uint64_t reserved = 0;
      if (pae) reserved = bits(long_mode(v) ? 51 : 62, phys) | (nxe ? 0 : kNoExec) | (large ? bits(shift - 1, 13) : 0);
      if (pae && level == 4) reserved |= kLarge;
      if (!pae && large) reserved = bits(21, phys < 40 ? phys - 19 : 21);
      if ((e & reserved) != 0) return faults(kErrPresent | kErrReserved);
      w.write = w.write && (e & kWrite) != 0;
      w.user = w.user && (e & kUser) != 0;
      w.exec = w.exec && !(pae && (e & kNoExec) != 0);
      used[count++] = {at, e};
      if (level > 1 && !large) {
        table = pae ? e & kFrame : e & 0xffff'f000;
        continue;
      }
      w.gpa = (e & (pae ? bits(51, shift) : bits(31, shift))) | (a & bits(shift - 1, 0));
      if (!pae && large) w.gpa |= (e & bits(20, 13)) << 19;
      break;
    }
    bool allowed = true;
    if (user)
      allowed = w.user && (fetch ? w.exec : !write || w.write);
    else if (fetch)
      allowed = w.exec && !(w.user && smep);
    else
      allowed =
          !(w.user && (v.cr4 & kCr4Smap) != 0 && (cpl == 3 || !ac)) && (!write || w.write || (v.cr0 & kCr0Wp) == 0);
    if (!allowed) return faults(kErrPresent);
    for (unsigned i = 0; i < count; ++i) {
      const bool leaf = i + 1 == count;
      const std::uint64_t want = used[i].entry | kAccessed | (leaf && write ? kDirty : 0);
      if (want == used[i].entry) continue;
      const int r = shadowmmu_kit_guest_exchange(machine_, used[i].at, size, used[i].entry, want);
      if (r == 1) return walk(v, a, write, user, fetch, cpl, ac);
      if (r == 0) mark(used[i].at >> 12);
    }
    w.dirty = write || (used[count - 1].entry & kDirty) != 0;
    return w;
  }

  shadowmmu_kit_machine* machine_;
  shadowmmu_kit_cpu cpu_;
  NaiveMistake mistake_;
  bool own_tables_;  ///< tables lie in memory of its own rather than in frames of the machine
  std::map<std::uint64_t, std::unique_ptr<Table>> own_;
  std::uint64_t next_own_ = 0;
  Vcpu vcpu_[SHADOWMMU_KIT_VCPUS];
  std::map<std::uint64_t, bool> logged_;  ///< frames under a log: whether they were written
};

Naive& self(void* mmu) { return *static_cast<Naive*>(mmu); }

template <NaiveMistake M, bool OwnTables = false>
const shadowmmu_kit_mmu kFunctions = [] {
  shadowmmu_kit_mmu f{};
  f.create = [](shadowmmu_kit_machine* machine, const shadowmmu_kit_cpu* cpu) -> void* {
    return new Naive(machine, *cpu, M, OwnTables);
  };
  f.destroy = [](void* m) { delete &self(m); };
  f.set_control = [](void* m, unsigned n, std::uint64_t cr0, std::uint64_t cr4, std::uint64_t efer) {
    return self(m).set_control(n, cr0, cr4, efer);
  };
  f.set_cr3 = [](void* m, unsigned n, std::uint64_t value) { return self(m).set_cr3(n, value); };
  f.enter = [](void* m, unsigned n, shadowmmu_kit_registers* hw) { return self(m).enter(n, hw); };
  f.fault = [](void* m, unsigned n, std::uint64_t a, std::uint32_t code, unsigned cpl, int ac,
               shadowmmu_kit_outcome* o) { self(m).fault(n, a, code, cpl, ac != 0, o); };
  f.invlpg = [](void* m, unsigned n, std::uint64_t) { self(m).invlpg(n); };
  f.flush = [](void* m, unsigned n) { self(m).start_anew(n); };
  f.guest_wrote = [](void* m, std::uint64_t gpa, std::uint64_t bytes) { self(m).wrote(gpa, bytes); };
  f.unmap_begin = [](void* m, std::uint64_t, std::uint64_t) { self(m).drop_everything(); };
  f.unmap_end = [](void*) {};
  f.start_log = [](void* m, std::uint64_t first, std::uint64_t pages) { return self(m).start_log(first, pages); };
  f.stop_log = [](void* m, std::uint64_t first, std::uint64_t pages) { return self(m).stop_log(first, pages); };
  f.fetch_log = [](void* m, std::uint64_t first, std::uint64_t pages, std::uint64_t* out) {
    return self(m).fetch_log(first, pages, out);
  };
  if (OwnTables) f.table = [](void* m, std::uint64_t table) { return self(m).own_table(table); };
  f.instruction_addresses = 4;
  return f;
}();

}  // namespace

const shadowmmu_kit_mmu& naive_mmu_with_tables_of_its_own() { return kFunctions<NaiveMistake::None, true>; }

const shadowmmu_kit_mmu& naive_mmu(NaiveMistake mistake) {
  switch (mistake) {
    case NaiveMistake::MissingFlush:
      return kFunctions<NaiveMistake::MissingFlush>;
    case NaiveMistake::WrongRole:
      return kFunctions<NaiveMistake::WrongRole>;
    case NaiveMistake::LostDirty:
      return kFunctions<NaiveMistake::LostDirty>;
    case NaiveMistake::None:
      break;
  }
  return kFunctions<NaiveMistake::None>;
}
