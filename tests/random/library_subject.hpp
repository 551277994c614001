// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "shadowmmu/shadowmmu.hpp"
#include "shadowmmu/sim/world/world.hpp"

namespace shadowmmu::test {

/// The library itself as what the world drives. What is its own (zaps of each kind, eviction, ageing, MMIO generations)
/// is upkeep that no guest may notice; its audit and its readers have their say after each action.
template <class Mmu>
class LibrarySubject final : public sim::world::Subject {
  using SlotPlace = sim::world::SlotPlace;

 public:
  LibrarySubject(sim::world::Machine& m, const sim::world::MachineConfig& c)
      : machine_(m), mmu_(m, caps(c)), steps_(c.seed % 3 != 0) {
    m.small_code = caps(c).nx_huge;
    for (unsigned n = 0; n < c.vcpus; ++n) vcpus_.push_back(std::make_unique<typename Mmu::Vcpu>(mmu_, VcpuId{n}));
  }

  ControlOutcome set_control(unsigned n, const Controls& c) override {
    if constexpr (kSecondLevel)
      return static_cast<void>(n), static_cast<void>(c), ControlOutcome::Done;
    else
      return vcpus_[n]->set_control(c);
  }
  ControlOutcome set_cr3(unsigned n, std::uint64_t value) override {
    if constexpr (kSecondLevel)
      return static_cast<void>(n), static_cast<void>(value), ControlOutcome::Done;
    else
      return vcpus_[n]->set_cr3(value);
  }
  EnterOutcome enter(unsigned n, HwState& hw) override {
    const EnterOutcome e = vcpus_[n]->enter();
    if (e == EnterOutcome::Enter) hw = vcpus_[n]->hw_state();
    return e;
  }
  FaultOutcome fault(unsigned n, std::uint64_t address, std::uint32_t code, CpuMode mode) override {
    vcpus_[n]->exit();
    return vcpus_[n]->handle_fault(Gva{address}, code, mode);
  }
  void invlpg(unsigned n, Gva address) override { vcpus_[n]->invlpg(address); }
  void flush(unsigned n) override { vcpus_[n]->flush(); }
  void guest_wrote(Gpa at, unsigned bytes) override { mmu_.guest_wrote(at, bytes); }
  void unmap_begin(Gfn first, std::uint64_t pages) override { mmu_.invalidate_begin(first, pages); }
  void unmap_end() override { mmu_.invalidate_end(); }
  bool nests_unmaps() const override { return true; }

  bool steps_writes() const override { return steps_; }
  Status step_begins(unsigned n, const FaultOutcome& o) override { return vcpus_[n]->begin_write_window(o); }
  void step_ends(unsigned n) override { vcpus_[n]->end_write_windows(); }

  bool has_slots() const override { return true; }
  Status add_slot(const SlotPlace& s) override {
    const Result<SlotId> r = mmu_.add_slot(Gfn{s.first}, s.pages);
    if (!r.ok()) return r.error();
    slots_[s.number] = {r.value(), s.first, s.pages};
    return Unit{};
  }
  Status remove_slot(const SlotPlace& s) override { return mmu_.remove_slot(id(s)); }
  Status place_slot(const SlotPlace& s) override {
    Slot& slot = slots_[s.number];
    const bool moves = s.first != slot.first && s.pages == slot.pages;
    const Status done = moves ? mmu_.move_slot(id(s), Gfn{s.first}) : mmu_.resize_slot(id(s), Gfn{s.first}, s.pages);
    if (done.ok()) slot = {slot.id, s.first, s.pages};
    return done;
  }
  Status flag_slot(const SlotPlace& s, bool read_only) override {
    return mmu_.set_slot_flags(id(s), SlotFlags{read_only});
  }

  bool has_logs() const override { return true; }
  Status start_log(const SlotPlace& s, std::uint64_t choice) override {
    const Status done =
        mmu_.start_dirty_log(id(s), choice % 2 == 0 ? DirtyMethod::WriteProtect : DirtyMethod::DirtyBit);
    if (done.ok() && choice % 3 == 0) static_cast<void>(mmu_.split_large_pages(id(s)));
    return done;
  }
  Status stop_log(const SlotPlace& s) override { return mmu_.stop_dirty_log(id(s)); }
  Status fetch_log(const SlotPlace& s, std::uint64_t choice, std::vector<std::uint64_t>& bits) override {
    const std::uint64_t words = bits.size();
    if (choice % 3 == 0) return mmu_.fetch_dirty_log(id(s), 0, words, bits.data());
    if (choice % 3 == 1) return reader_.fetch_dirty_log(id(s), 0, words, bits.data());
    Status done = reader_.read_dirty_log(id(s), 0, words, bits.data());
    for (std::uint64_t w = 0; w < words && done.ok(); ++w)
      if (bits[w] != 0) done = reader_.clear_dirty_log(id(s), w, bits[w]);
    return done;
  }
  bool tells_writes() const override { return true; }

  std::string upkeep(std::uint64_t choice, std::uint64_t amount, bool quiet) override {
    const Gfn g{amount % 4 != 0 ? amount % 2000 : sim::world::GuestMap::kBig + amount % 600};
    const auto few = static_cast<std::uint32_t>(amount % 9);
    switch (choice % 16) {
      case 0:
        mmu_.zap_all_fast();
        return "everything is zapped";
      case 1:
        mmu_.obsolete_all();
        mmu_.reclaim_obsolete(few);
        return "everything is obsolete, " + std::to_string(few) + " pages are freed";
      case 2:
        mmu_.reclaim_obsolete(few);
        return std::to_string(few) + " obsolete pages are freed";
      case 3:
        static_cast<void>(mmu_.zap_slot(slots_[amount % slots_.size()].id));
        return "slot " + std::to_string(amount % slots_.size()) + " is zapped";
      case 4:
        mmu_.shrink(static_cast<std::uint32_t>(amount % 16));
        return "memory is short: shrink";
      case 5:
      case 6: {
        // Sometimes as often as brings a narrow generation round, with or without the step that a new slot makes.
        const unsigned times = amount % 3 != 0 ? 1 : (4U << amount / 3 % 7) - static_cast<unsigned>(amount / 32 % 2);
        for (unsigned i = 0; i < times; ++i) mmu_.invalidate_mmio();
        return "MMIO entries are invalid, " + std::to_string(times) + " times over";
      }
      case 7:
        if (!quiet || amount % 8 != 0) return "nothing";
        machine_.kick_and_wait(kAllVcpus);
        mmu_.release();
        return "all is released";
      case 8:
        mmu_.recover_exec_splits(static_cast<std::uint32_t>(amount % 3));
        return "splits for code are undone";
      case 9:
      case 10:
        mmu_.clear_young(g, amount >> 16 & 511);
        return "pages are aged";
      default:
        mmu_.set_limit(static_cast<std::uint32_t>(amount % 4 == 0 ? 1 : 16 + amount % 64));
        return "the limit is " + std::to_string(mmu_.limit()) + " pages";
    }
  }
  std::string unsound(std::uint64_t choice, bool told) override {
    const AuditReport r = mmu_.audit();
    if (r.violations != (told ? 0 : r.unreported))
      return std::string("audit: ") + r.first + " (at " + std::to_string(r.at) + ")";
    if (mmu_.stats().pages_used > mmu_.limit() + 4U) return "more shadow pages than the limit";
    const Gfn g{choice % 3 != 0 ? choice * 7 % 2000 : sim::world::GuestMap::kBig + choice * 7 % 2000};
    if (choice % 4 == 0 && mmu_.test_young(g, 300) != reader_.test_young(g, 300)) return "a reader finds another age";
    // Another thread finds what the tables say now, for each vCPU: memory of a slot, or nothing.
    constexpr std::uint64_t kAreas[] = {0x0040'0000, 0x0060'0000, 0x8000'0000, 0xc000'0000, 0x000c'8000, 0x9000'0000};
    for (const auto& v : vcpus_) {
      const EntryInfo e = reader_.lookup(*v, Gva{kAreas[choice / 2 % 6] + (choice / 12 % 8 << 12)});
      if (e.present && !machine_.memory(machine_.gfn_at(address_of(e.pfn))))
        return "a reader found a frame that no slot owns";
    }
    return {};
  }
  bool translates() const override { return !kSecondLevel; }
  bool translate(unsigned n, std::uint64_t address, AccessRequest r, CpuMode m, Gpa& to) override {
    if constexpr (kSecondLevel) {
      return static_cast<void>(n), static_cast<void>(address), static_cast<void>(r), static_cast<void>(m), to = {},
                                                                                                           false;
    } else {
      const auto t = reader_.translate(*vcpus_[n], Gva{address}, r, m);
      to = t.to.gpa;
      return t.ok();
    }
  }
  unsigned instruction_addresses() const override { return Mmu::State::Config::kInstructionAddresses; }
  bool explains_implicit() const override { return true; }
  bool has_pcid() const override { return !kSecondLevel; }

 private:
  static constexpr bool kSecondLevel = Mmu::Arch::kGuests.has(GuestMode::Direct);
  [[nodiscard]] static typename Mmu::Caps caps(const sim::world::MachineConfig& m) {
    typename Mmu::Caps c;
    c.host_address_bits = static_cast<std::uint8_t>(m.host_address_bits);
    c.nx_huge = m.seed % 3 == 0;
    c.large_1g = m.large_1g;
    if constexpr (kSecondLevel) {
      c.accessed_dirty = m.ept.accessed_dirty;
      c.exec_only = m.ept.exec_only;
    } else {
      c.guest_address_bits = sim::world::Guest<sim::world::Machine>::kMaxPhys;
      c.pcid = true;
    }
    return c;
  }

  struct Slot {
    SlotId id{};
    std::uint64_t first = 0, pages = 0;
  };
  [[nodiscard]] SlotId id(const SlotPlace& s) const { return slots_[s.number].id; }
  sim::world::Machine& machine_;
  Mmu mmu_;
  typename Mmu::Reader reader_{mmu_};
  std::vector<std::unique_ptr<typename Mmu::Vcpu>> vcpus_;
  std::array<Slot, sim::world::Model::kSlots> slots_{};
  bool steps_;
};

/// Returns: what makes an Mmu of this type for a world.
template <class Mmu>
[[nodiscard]] sim::world::MakeSubject library() {
  return [](sim::world::Machine& m, const sim::world::MachineConfig& c) {
    return std::make_unique<LibrarySubject<Mmu>>(m, c);
  };
}

}  // namespace shadowmmu::test
