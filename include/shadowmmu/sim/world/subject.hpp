// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "shadowmmu/result.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu::sim::world {

/// A memory slot: its number in the world, and where it lies.
struct SlotPlace {
  unsigned number = 0;
  std::uint64_t first = 0, pages = 0;
};

/// The MMU that is tried: any implementation, driven through what every one must offer to the hypervisor around it. It
/// sees memory and asks for flushes and kicks through the Machine. What an optional function says is false, the world
/// does without.
class Subject {
 public:
  Subject() = default;
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;
  virtual ~Subject() = default;

  /// The guest of this vCPU wrote control registers. EFER.LMA comes as the CPU would set it.
  virtual ControlOutcome set_control(unsigned vcpu, const Controls& c) = 0;
  /// The guest wrote CR3; bit 63 as the guest wrote it where CR4.PCIDE is set.
  virtual ControlOutcome set_cr3(unsigned vcpu, std::uint64_t value) = 0;
  /// Called right before guest code runs. Effects: `hw` is what the hardware must run with: its cr3 names the root.
  virtual EnterOutcome enter(unsigned vcpu, HwState& hw) = 0;
  /// A fault of the hardware, error code as pushed (second level: the access, and kReserved for a misconfiguration).
  [[nodiscard]] virtual FaultOutcome fault(unsigned vcpu, std::uint64_t address, std::uint32_t code, CpuMode mode) = 0;
  virtual void invlpg(unsigned vcpu, Gva address) = 0;
  /// The guest flushed everything.
  virtual void flush(unsigned vcpu) = 0;
  /// Guest memory was written by something that is no CPU of the guest, or by the emulator for one.
  virtual void guest_wrote(Gpa at, unsigned bytes) = 0;
  /// What backs the frames is about to change: when begin returns no entry maps them, and none does until end.
  virtual void unmap_begin(Gfn first, std::uint64_t pages) = 0;
  virtual void unmap_end() = 0;
  /// Whether one may begin while another is under way.
  [[nodiscard]] virtual bool nests_unmaps() const { return false; }
  /// The Host wants to be asked before these frames are written again.
  virtual void protect(Gfn first, std::uint64_t pages) {
    unmap_begin(first, pages);
    unmap_end();
  }

  /// Whether a write that the MMU will not map may be carried out by the vCPU itself, single-stepped; else the world
  /// stores in its place and tells guest_wrote.
  [[nodiscard]] virtual bool steps_writes() const { return false; }
  [[nodiscard]] virtual Status step_begins(unsigned /*vcpu*/, const FaultOutcome& /*emulate*/) { return Unit{}; }
  virtual void step_ends(unsigned /*vcpu*/) {}

  /// Memory slots, told apart by their numbers; without them, what is memory is what backing() says. `place`: the slot
  /// lies there from now on.
  [[nodiscard]] virtual bool has_slots() const { return false; }
  [[nodiscard]] virtual Status add_slot(const SlotPlace&) { return Unit{}; }
  [[nodiscard]] virtual Status remove_slot(const SlotPlace&) { return Unit{}; }
  [[nodiscard]] virtual Status place_slot(const SlotPlace&) { return Unit{}; }
  [[nodiscard]] virtual Status flag_slot(const SlotPlace&, bool /*read_only*/) { return Unit{}; }

  /// Dirty logs of slots. `choice` picks among an implementation's ways of doing the same.
  [[nodiscard]] virtual bool has_logs() const { return false; }
  [[nodiscard]] virtual Status start_log(const SlotPlace&, std::uint64_t /*choice*/) { return Unit{}; }
  [[nodiscard]] virtual Status stop_log(const SlotPlace&) { return Unit{}; }
  /// Effects: `bits`, one a page of the slot, are those written since the last fetch; they are clean from now on.
  [[nodiscard]] virtual Status fetch_log(const SlotPlace&, std::uint64_t /*choice*/, std::vector<std::uint64_t>&) {
    return Unit{};
  }
  /// Whether the Machine's wrote() hears of each frame that a CPU wrote, before no entry maps it any more.
  [[nodiscard]] virtual bool tells_writes() const { return false; }

  /// Effects: something of the implementation's own that no guest may notice: eviction, a zap of everything, ageing.
  /// `quiet`: no vCPU is in the guest, and no other operation under way. Returns: what it was, for the story.
  virtual std::string upkeep(std::uint64_t /*choice*/, std::uint64_t /*amount*/, bool /*quiet*/) { return {}; }
  /// Returns: what the implementation finds wrong with itself, or with what its own readers see; empty if nothing.
  /// `told`: it has heard of every write to guest tables; else it cannot know what they say.
  [[nodiscard]] virtual std::string unsound(std::uint64_t /*choice*/, bool /*told*/) { return {}; }
  /// Whether another thread than the vCPU's can translate for it; where false, the world does not ask.
  [[nodiscard]] virtual bool translates() const { return false; }
  /// Returns: whether an access of the vCPU to `address` is allowed, as another thread finds it in the guest's tables,
  /// and where it leads. The access was made, so that it owes no A or D.
  [[nodiscard]] virtual bool translate(unsigned /*vcpu*/, std::uint64_t /*address*/, AccessRequest, CpuMode, Gpa&) {
    return false;
  }
  /// Returns: how many addresses it promises to map at the same time for one instruction; 0 for no promise.
  [[nodiscard]] virtual unsigned instruction_addresses() const { return 0; }
  /// Whether it ends an implicit supervisor access at CPL < 3 with AC set, of which nothing tells it, in the fault that
  /// SMAP demands; else the world makes none.
  [[nodiscard]] virtual bool explains_implicit() const { return false; }
  /// Whether the guest may set CR4.PCIDE.
  [[nodiscard]] virtual bool has_pcid() const { return false; }
};

}  // namespace shadowmmu::sim::world
