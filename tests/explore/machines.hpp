// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "shadowmmu/grace/flush_waits.hpp"
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"
#include "shadowmmu/sim/explore.hpp"

/// The real library on explored memory, a Host that tells on those who use what was freed, and CPUs that obey flushes.
namespace shadowmmu::test {

using M = sim::ExploredMemory;
using memory::Order;
using ExploredSpin = lock::BasicSpin<M>;
using ExploredReaders = lock::Readers<ExploredSpin>;

/// Interrupts of the one reader that FlushWaits is tried with.
struct OneIrq {
  static inline std::uint64_t off = 0;  ///< cell
  static int disable() noexcept {
    M::exchange<Order::AcqRel>(off, 1);
    return 0;
  }
  static void restore(int) noexcept { M::store<Order::Release>(off, 0); }
};
using ExploredFlush = lock::Readers<ExploredSpin, grace::FlushWaits<OneIrq>>;

/// Memory of one machine after another, since a search makes hundreds of thousands. That of many guest pages, of which
/// few are touched, each machine maps itself.
class Lender {
 public:
  Lender(std::uint64_t guest_pages, std::uint64_t frames)
      : guest_(guest_pages > 64 ? 0 : guest_pages), frames_(frames) {
    auto& spare = store()[{guest_, frames_}];
    if (spare.empty()) {
      memory_ = std::make_unique<Page[]>(guest_ + frames_);
    } else {
      memory_ = std::move(spare.back());
      spare.pop_back();
      std::memset(memory_.get(), 0, guest_ * kPageSize);
    }
  }
  Lender(const Lender&) = delete;
  ~Lender() { store()[{guest_, frames_}].push_back(std::move(memory_)); }
  [[nodiscard]] char* guest() noexcept { return guest_ == 0 ? nullptr : memory_[0].bytes; }
  [[nodiscard]] char* tables() noexcept { return memory_[guest_].bytes; }

 private:
  struct alignas(4096) Page {
    char bytes[4096];
  };
  using Memory = std::unique_ptr<Page[]>;
  static std::map<std::pair<std::uint64_t, std::uint64_t>, std::vector<Memory>>& store() {
    static std::map<std::pair<std::uint64_t, std::uint64_t>, std::vector<Memory>> all;
    return all;
  }
  std::uint64_t guest_, frames_;
  Memory memory_;
};

/// Freed frames hold entries that are a leaf at every level, young in every format, and lead to kPoison. A flush
/// returns when no CPU is in the middle of a guest's access, nor a reader behind OneIrq.
class PoisonHost : Lender, public host::Arena {
 public:
  static constexpr std::uint64_t kPoison = 0xdead, kEntry = kPoison << 12 | 0x1a7;

  PoisonHost(std::uint64_t guest_pages, std::uint64_t frames)
      : Lender(guest_pages, frames), Arena(guest_pages, frames, Lent{Lender::guest(), Lender::tables()}) {
    freed_.resize(frames);
    OneIrq::off = 0;
  }
  void free_frame(Hpa p) noexcept {
    // As any next owner of the frame would write it: to the sanitizer of threads, too.
    if (!over) std::memcpy(to_virt(p), poison().data(), kPageSize);
    sim::publish(to_virt(p));
    const sim::Unseen allocator;
    if (!over) freed_[number(p)] = true;
    const sim::UnseenLocks its_lock;
    Arena::free_frame(p);
  }
  Result<Hpa> alloc_frame(FrameKind k) noexcept {
    const sim::Unseen allocator;
    if (frames_left == 0) return Error::OutOfMemory;
    frames_left -= 1;
    const Result<Hpa> r = [&] {
      const sim::UnseenLocks its_lock;
      return Arena::alloc_frame(k);
    }();
    if (r.ok()) sim::take_over(to_virt(r.value()));
    if (r.ok()) freed_[number(r.value())] = false;
    // Who has not heard of it from whoever has it now may still find what was freed.
    if (sim::Execution* e = sim::Execution::current(); e != nullptr && r.ok()) e->filled(to_virt(r.value()), kEntry);
    return r;
  }
  /// Returns: whether nobody has written what is free.
  [[nodiscard]] bool untouched() {
    for (std::size_t n = 0; n < freed_.size(); ++n)
      if (freed_[n] && std::memcmp(to_virt(Hpa{kTableBase + n * kPageSize}), poison().data(), kPageSize) != 0)
        return false;
    return true;
  }
  void flush(const FlushRequest&) noexcept {
    M::fence<Order::SeqCst>();
    for (std::uint64_t& cell : accessing) interrupt(cell);
    interrupt(OneIrq::off);
  }
  Backing backing(Gfn g, bool write) noexcept {
    Backing b = Arena::backing(g, write);
    b.level = large ? Level{2} : Level{1};
    if (g == moving && M::load<Order::Relaxed>(moved) != 0) b.pfn = b.pfn + 16;
    if (g == filling) M::store<Order::Relaxed>(filled, 1);
    if (g == appearing && M::load<Order::Relaxed>(appeared) == 0) return {};
    return b;
  }
  /// Effects: page `moving` lies 16 frames further on from now.
  void move() noexcept { M::store<Order::Relaxed>(moved, 1); }
  /// Effects: page `appearing` is memory from now.
  void appear() noexcept { M::store<Order::Relaxed>(appeared, 1); }
  /// A CPU's guest begins and ends an access: no flush returns meanwhile.
  void access_begins(unsigned cpu) noexcept { M::exchange<Order::AcqRel>(accessing[cpu], 1); }
  void access_ends(unsigned cpu) noexcept { M::store<Order::Release>(accessing[cpu], 0); }
  bool large = false;
  static constexpr Gfn kNoPage{~std::uint64_t{0}};
  Gfn moving = kNoPage, filling = kNoPage, appearing = kNoPage;
  std::uint64_t moved = 0, filled = 0, appeared = 0;  ///< cells
  unsigned frames_left = ~0U;
  bool over = false;  ///< the machine is taken down: nobody is left who could use what is freed

 private:
  /// As an interrupt does: it waits for the CPU, which from then on knows what whoever sent it knew.
  static void interrupt(std::uint64_t& busy) noexcept {
    while (M::fetch_add<Order::AcqRel>(busy, 0) != 0) M::pause();
  }
  static std::size_t number(Hpa p) noexcept { return (p.value() - kTableBase) / kPageSize; }
  using Words = std::array<std::uint64_t, kEntriesPerTable>;
  static const Words& poison() noexcept {
    static const Words page = [] {
      Words w;
      w.fill(kEntry);
      return w;
    }();
    return page;
  }

  std::array<std::uint64_t, 2> accessing{};  ///< cells: a guest's access is under way on that CPU
  std::vector<bool> freed_;                  ///< by the number of the frame
};

/// The bound that scenarios reach with a few pages.
struct FewDeferred : config::Default {
  static constexpr unsigned kDeferredPages = 8;
  static constexpr unsigned kPrefetch = 1;
};

/// Returns: the leaf of an address that is mapped by 4 KiB below this root, as hardware finds it.
template <class Arch>
[[nodiscard]] std::uint64_t* leaf_below(PoisonHost& host, std::uint64_t root, std::uint64_t a) {
  std::uint64_t at = root;
  for (unsigned l = 4;; --l) {
    auto* cell = static_cast<std::uint64_t*>(host.to_virt(Hpa{at & ~kPageMask})) + Level{l}.index(a);
    if (l == 1) return cell;
    at = Arch::address(*cell).value();
  }
}

/// Two vCPUs (or one) on 16 (or, large, 1024) guest pages under a direct map; each has touched page 1.
template <class Lock = ExploredReaders, class Config = FewDeferred>
struct Direct {
  using Mmu = ShadowMmu<arch::Ept, Lock, reclaim::Fifo, PoisonHost, Config>;

  explicit Direct(bool large = false, typename Mmu::Caps caps = {}, unsigned vcpus = 2)
      : host(large ? 1024 : 32, 256), mmu(host, caps) {
    host.large = large;
    slot = mmu.add_slot(Gfn{0}, large ? 1024 : 16).value();
    for (unsigned n = 0; n < vcpus; ++n) {
      vcpu[n] = std::make_unique<typename Mmu::Vcpu>(mmu, VcpuId{n});
      REQUIRE(vcpu[n]->enter() == EnterOutcome::Enter);
      static_cast<void>(vcpu[n]->handle_fault(Gva{0x1000}, pferr::kWrite));  // the path exists, magazines are full
    }
    reader = std::make_unique<typename Mmu::Reader>(mmu);
  }
  ~Direct() {
    host.over = true;
    reader.reset();
    for (auto& v : vcpu) v.reset();
  }
  [[nodiscard]] Pfn frame(std::uint64_t gfn) const noexcept { return Pfn{(PoisonHost::kGuestBase >> 12) + gfn}; }
  /// Whether what a lookup found is the page's own frame, or nothing.
  [[nodiscard]] bool right(const EntryInfo& e, std::uint64_t gfn) const noexcept {
    return !e.present || e.pfn == frame(gfn);
  }
  FaultOutcome::Kind write(unsigned i, std::uint64_t a, bool present = false) {
    return vcpu[i]->handle_fault(Gva{a}, pferr::kWrite | (present ? pferr::kPresent : 0U)).kind;
  }
  [[nodiscard]] std::uint64_t* leaf(std::uint64_t a) { return leaf_below<arch::Ept>(host, vcpu[0]->hw_state().cr3, a); }
  /// Whether every leaf that may be written is in the log. Outside of agents.
  [[nodiscard]] bool logged(std::uint64_t gfn) {
    std::uint64_t word = 0;
    REQUIRE(mmu.read_dirty_log(slot, gfn / 64, 1, &word).ok());
    return !vcpu[0]->lookup(Gva{gfn << 12}).rights.write() || (word >> (gfn % 64) & 1) != 0;
  }
  [[nodiscard]] bool sound() { return mmu.audit().violations == 0; }

  PoisonHost host;
  Mmu mmu;
  SlotId slot{};
  std::unique_ptr<typename Mmu::Vcpu> vcpu[2];
  std::unique_ptr<typename Mmu::Reader> reader;
  FaultOutcome::Kind kind[2] = {};
  std::uint64_t flag = 0;  ///< cell
  Counters seen{};
};

/// Two vCPUs in long mode on one set of tables: frames 1 .. 4 from the root down; entry n of the leaf table, at address
/// n * 4096, maps frame 16 + n; entries 8 and 9 map frames 16 and 17 again; entry 10 maps the leaf table itself, entry
/// 11 the directory above.
template <class Lock = ExploredReaders>
struct Shadow {
  using Mmu = ShadowMmu<arch::X86_64, Lock, reclaim::Fifo, PoisonHost, FewDeferred>;
  static constexpr std::uint64_t kPage = 0x67;

  Shadow() {
    for (std::uint64_t t = 1; t < 4; ++t) table(t)[0] = (t + 1) << 12 | kPage;
    for (std::uint64_t n = 0; n < 8; ++n) table(4)[n] = (16 + n) << 12 | kPage;
    table(4)[8] = 16 << 12 | kPage;
    table(4)[9] = 17 << 12 | kPage;
    table(4)[10] = 4 << 12 | kPage;
    table(4)[11] = 3 << 12 | kPage;
    slot = mmu.add_slot(Gfn{0}, 32).value();
    for (auto& v : vcpu) {
      v = std::make_unique<typename Mmu::Vcpu>(mmu, VcpuId{static_cast<std::uint32_t>(&v - vcpu)});
      REQUIRE(v->set_control({cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kLme | efer::kLma | efer::kNxe}) ==
              ControlOutcome::Done);
      REQUIRE(v->set_cr3(1 << 12) == ControlOutcome::Done);
      REQUIRE(v->enter() == EnterOutcome::Enter);
      REQUIRE(write(static_cast<unsigned>(&v - vcpu), 0x1000) == FaultOutcome::Kind::Resume);
    }
    reader = std::make_unique<typename Mmu::Reader>(mmu);
  }
  ~Shadow() {
    host.over = true;
    reader.reset();
    for (auto& v : vcpu) v.reset();
  }
  std::uint64_t* table(std::uint64_t gfn) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{gfn})); }
  [[nodiscard]] std::uint64_t* leaf(std::uint64_t a) {
    return leaf_below<arch::X86_64>(host, vcpu[0]->hw_state().cr3, a);
  }
  FaultOutcome::Kind write(unsigned i, std::uint64_t a) {
    return vcpu[i]->handle_fault(Gva{a}, pferr::kWrite | pferr::kUser).kind;
  }
  /// Effects: the guest stores `v` in its leaf table by way of entry 10, on CPU i, if the shadow lets it; a flush waits
  /// for it. Returns: whether it did.
  bool guest_store(unsigned i, unsigned entry, std::uint64_t v) {
    host.access_begins(i);
    const bool may = vcpu[i]->lookup(Gva{0xa000}).rights.write();
    if (may) M::store<Order::Relaxed>(table(4)[entry], v);
    host.access_ends(i);
    return may;
  }
  /// Whether the log has the frame, if the page that maps it may be written. Outside of agents.
  [[nodiscard]] bool logged(std::uint64_t page, std::uint64_t frame) {
    std::uint64_t word = 0;
    REQUIRE(mmu.read_dirty_log(slot, 0, 1, &word).ok());
    return !vcpu[0]->lookup(Gva{page << 12}).rights.write() || (word >> frame & 1) != 0;
  }
  [[nodiscard]] bool sound() { return mmu.audit().violations == 0; }

  PoisonHost host{64, 512};
  Mmu mmu{host};
  SlotId slot{};
  std::unique_ptr<typename Mmu::Vcpu> vcpu[2];
  std::unique_ptr<typename Mmu::Reader> reader;
  FaultOutcome::Kind kind[2] = {};
  std::uint64_t flag = 0;  ///< cell
};

}  // namespace shadowmmu::test
