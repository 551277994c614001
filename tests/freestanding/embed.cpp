// SPDX-License-Identifier: BSL-1.0
// What a kernel would compile: both formats, both locks, every operation. The object may need nothing but mem*
// functions and what the Host brings.
#include "shadowmmu/shadowmmu.hpp"

using namespace shadowmmu;

namespace {
/// The embedder's environment, as function pointers that the test object need not define.
struct Vm {
  Result<Hpa> (*alloc)(FrameKind) noexcept;
  void (*give)(Hpa) noexcept;
  Backing (*answer)(Gfn, bool) noexcept;
  void* memory;

  Result<Hpa> alloc_frame(FrameKind k) noexcept { return alloc(k); }
  void free_frame(Hpa p) noexcept { give(p); }
  void* to_virt(Hpa p) noexcept { return static_cast<char*>(memory) + p.value(); }
  Hpa to_phys(const void* v) noexcept {
    return Hpa{static_cast<std::uint64_t>(static_cast<const char*>(v) - static_cast<char*>(memory))};
  }
  void* guest_page(Gfn g) noexcept { return static_cast<char*>(memory) + g.value() * kPageSize; }
  GuestExchange guest_exchange(Gpa, unsigned, std::uint64_t, std::uint64_t) noexcept { return GuestExchange::ReadOnly; }
  Backing backing(Gfn g, bool w) noexcept { return answer(g, w); }
  void flush(const FlushRequest&) noexcept {}
  void kick_and_wait(VcpuId) noexcept {}
  bool should_yield() noexcept { return false; }
  void wrote(Gfn, std::uint64_t) noexcept {}
};

template <class Mmu>
std::uint64_t slots_and_logs(Mmu& mmu, SlotId slot) noexcept {
  std::uint64_t words[16] = {};
  std::uint64_t done = 0;
  const auto count = [&done](Status s) noexcept { done += s.ok() ? 1U : 0U; };
  count(mmu.start_dirty_log(slot, DirtyMethod::DirtyBit));
  count(mmu.split_large_pages(slot));
  count(mmu.fetch_dirty_log(slot, 0, 16, words));
  count(mmu.read_dirty_log(slot, 0, 16, words));
  count(mmu.clear_dirty_log(slot, 0, 1));
  mmu.drain_dirty_buffer(words, 16);
  count(mmu.stop_dirty_log(slot));
  count(mmu.move_slot(slot, Gfn{4096}));
  count(mmu.resize_slot(slot, Gfn{4096}, 100));
  count(mmu.set_slot_flags(slot, SlotFlags{true}));
  count(mmu.zap_slot(slot));
  mmu.obsolete_all();
  done += mmu.reclaim_obsolete(4) + mmu.recover_exec_splits(1);
  mmu.invalidate_mmio();
  done += mmu.test_young(Gfn{0}, 9) || mmu.clear_young(Gfn{0}, 9) ? 1U : 0U;
  mmu.release();
  count(mmu.remove_slot(slot));
  return done;
}

template <class Mmu>
std::uint64_t everything(Vm& vm, std::uint64_t a) noexcept {
  Mmu mmu(vm);
  std::uint64_t sum = 0;
  const Result<SlotId> slot = mmu.add_slot(Gfn{0}, 1024);
  {
    typename Mmu::Vcpu v(mmu);
    sum += v.enter() == EnterOutcome::Enter ? v.hw_state().cr3 : 0;
    const FaultOutcome o = v.handle_fault(Gva{a}, pferr::kWrite);
    sum += static_cast<std::uint64_t>(o.kind) + v.translate(Gva{a}, {}).to.gpa.value() + v.lookup(Gva{a}).entry;
    v.invlpg(Gva{a});
    v.flush();
    if (v.begin_write_window(o).ok()) v.end_write_windows();
    mmu.guest_wrote(Gpa{a}, 8);
    mmu.unmap(Gfn{1}, 2);
    mmu.zap_all_fast();
    sum += mmu.set_limit(64) + mmu.shrink(1) + mmu.audit().violations + mmu.stats().faults + mmu.metadata_frames();
  }
  if (slot.ok()) sum += slots_and_logs(mmu, slot.value());
  return sum;
}
}  // namespace

extern "C" std::uint64_t embed(Vm* vm, std::uint64_t a) {
  return everything<ShadowMmu<arch::X86_64, lock::Spin, reclaim::Fifo, Vm>>(*vm, a) +
         everything<ShadowMmu<arch::Ept, lock::None, reclaim::Fifo, Vm>>(*vm, a);
}
extern "C" std::uint64_t embed_controls(Vm* vm, std::uint64_t cr3) {
  ShadowMmu<arch::X86_64, lock::None, reclaim::Fifo, Vm> mmu(*vm);
  decltype(mmu)::Vcpu v(mmu);
  if (v.set_control({cr0::kPe | cr0::kPg, cr4::kPae, 0}) != ControlOutcome::Done) return 0;
  return v.set_cr3(cr3) == ControlOutcome::Done ? 1 : 2;
}
