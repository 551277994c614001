// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "shadowmmu/sim/conformance.h"
#include "shadowmmu/sim/world/world.hpp"

/// The conformance kit: the random world behind conformance.h, whose functions this defines. A C++ implementation may
/// derive from world::Subject itself and call world::try_seed. docs/CONFORMANCE.md.
namespace shadowmmu::sim {

/// An MMU that is offered as functions of C.
class ForeignSubject final : public world::Subject {
 public:
  ForeignSubject(const shadowmmu_kit_mmu& mmu, world::Machine& machine, const world::MachineConfig& config)
      : mmu_(mmu) {
    const shadowmmu_kit_cpu cpu{config.host_address_bits, world::Guest<world::Machine>::kMaxPhys,
                                config.second_level ? 1 : 0, config.ept.accessed_dirty ? 1 : 0,
                                config.large_1g ? 1 : 0};
    self_ = mmu_.create(reinterpret_cast<shadowmmu_kit_machine*>(&machine), &cpu);
    if (self_ != nullptr && mmu_.table != nullptr)
      machine.foreign_tables = [this](Hpa p) { return mmu_.table(self_, p.value()); };
  }
  ~ForeignSubject() override {
    if (self_ != nullptr) mmu_.destroy(self_);
  }

  ControlOutcome set_control(unsigned n, const Controls& c) override {
    return mmu_.set_control(self_, n, c.cr0, c.cr4, c.efer) == 0 ? ControlOutcome::Done : ControlOutcome::InjectGp;
  }
  ControlOutcome set_cr3(unsigned n, std::uint64_t value) override {
    return mmu_.set_cr3(self_, n, value) == 0 ? ControlOutcome::Done : ControlOutcome::InjectGp;
  }
  EnterOutcome enter(unsigned n, HwState& hw) override {
    if (self_ == nullptr) return EnterOutcome::Retry;
    shadowmmu_kit_registers r{};
    if (mmu_.enter(self_, n, &r) != 0) return EnterOutcome::OutOfMemory;
    hw = {r.cr0, r.cr3, r.cr4, r.efer};
    return EnterOutcome::Enter;
  }
  FaultOutcome fault(unsigned n, std::uint64_t address, std::uint32_t code, CpuMode mode) override {
    shadowmmu_kit_outcome o{};
    mmu_.fault(self_, n, address, code, mode.cpl, mode.ac ? 1 : 0, &o);
    FaultOutcome f;
    f.address = o.address;
    f.error_code = o.error_code;
    f.gpa = Gpa{o.gpa};
    switch (o.answer) {
      case SHADOWMMU_KIT_RESUME:
        f.kind = FaultOutcome::Kind::Resume;
        break;
      case SHADOWMMU_KIT_INJECT:
        f.kind = FaultOutcome::Kind::InjectPageFault;
        break;
      case SHADOWMMU_KIT_MMIO:
        f.kind = FaultOutcome::Kind::Mmio;
        break;
      case SHADOWMMU_KIT_EMULATE:
        f.kind = FaultOutcome::Kind::Emulate;
        break;
      case SHADOWMMU_KIT_OUT_OF_MEMORY:
        f.kind = FaultOutcome::Kind::OutOfMemory;
        break;
      default:
        f.kind = FaultOutcome::Kind::HostError;
    }
    return f;
  }
  void invlpg(unsigned n, Gva address) override { mmu_.invlpg(self_, n, address.value()); }
  void flush(unsigned n) override { mmu_.flush(self_, n); }
  void guest_wrote(Gpa at, unsigned bytes) override { mmu_.guest_wrote(self_, at.value(), bytes); }
  void unmap_begin(Gfn first, std::uint64_t pages) override { mmu_.unmap_begin(self_, first.value(), pages); }
  void unmap_end() override { mmu_.unmap_end(self_); }
  void protect(Gfn first, std::uint64_t pages) override {
    if (mmu_.protect == nullptr) return Subject::protect(first, pages);
    mmu_.protect(self_, first.value(), pages);
  }
  bool has_logs() const override {
    return mmu_.start_log != nullptr && mmu_.stop_log != nullptr && mmu_.fetch_log != nullptr;
  }
  Status start_log(const world::SlotPlace& s, std::uint64_t) override {
    return status(mmu_.start_log(self_, s.first, s.pages));
  }
  Status stop_log(const world::SlotPlace& s) override { return status(mmu_.stop_log(self_, s.first, s.pages)); }
  Status fetch_log(const world::SlotPlace& s, std::uint64_t, std::vector<std::uint64_t>& bits) override {
    return status(mmu_.fetch_log(self_, s.first, s.pages, bits.data()));
  }
  std::string upkeep(std::uint64_t choice, std::uint64_t amount, bool) override {
    const char* what = mmu_.upkeep == nullptr ? nullptr : mmu_.upkeep(self_, choice, amount);
    return what == nullptr ? "nothing" : what;
  }
  unsigned instruction_addresses() const override { return mmu_.instruction_addresses; }
  bool explains_implicit() const override { return mmu_.explains_implicit != 0; }
  bool has_pcid() const override { return mmu_.pcid != 0; }
  [[nodiscard]] bool made() const noexcept { return self_ != nullptr; }

 private:
  [[nodiscard]] static Status status(int failed) {
    if (failed != 0) return Error::OutOfMemory;
    return Unit{};
  }
  shadowmmu_kit_mmu mmu_;
  void* self_ = nullptr;
};

namespace detail {
[[nodiscard]] inline world::Machine& machine_of(shadowmmu_kit_machine* m) {
  return *reinterpret_cast<world::Machine*>(m);
}
}  // namespace detail
}  // namespace shadowmmu::sim

// Weak, so that a C file finds them, and more than one C++ file may include this.
extern "C" {
[[gnu::weak]] std::uint64_t shadowmmu_kit_alloc_frame(shadowmmu_kit_machine* machine) {
  const auto r = shadowmmu::sim::detail::machine_of(machine).alloc_frame(shadowmmu::FrameKind::TableBelow4G);
  return r.ok() ? r.value().value() : 0;
}
[[gnu::weak]] void shadowmmu_kit_free_frame(shadowmmu_kit_machine* machine, std::uint64_t frame) {
  shadowmmu::sim::detail::machine_of(machine).free_frame(shadowmmu::Hpa{frame});
}
[[gnu::weak]] void* shadowmmu_kit_to_virt(shadowmmu_kit_machine* machine, std::uint64_t host_address) {
  return shadowmmu::sim::detail::machine_of(machine).to_virt(shadowmmu::Hpa{host_address});
}
[[gnu::weak]] void shadowmmu_kit_frame_unused(shadowmmu_kit_machine* machine, std::uint64_t frame) {
  shadowmmu::sim::detail::machine_of(machine).unused(shadowmmu::Hpa{frame});
}
[[gnu::weak]] const void* shadowmmu_kit_guest_page(shadowmmu_kit_machine* machine, std::uint64_t gfn) {
  auto& m = shadowmmu::sim::detail::machine_of(machine);
  return m.memory(gfn) ? m.guest_page(shadowmmu::Gfn{gfn}) : nullptr;
}
[[gnu::weak]] int shadowmmu_kit_guest_exchange(shadowmmu_kit_machine* machine, std::uint64_t gpa, unsigned bytes,
                                               std::uint64_t before, std::uint64_t after) {
  return static_cast<int>(
      shadowmmu::sim::detail::machine_of(machine).guest_exchange(shadowmmu::Gpa{gpa}, bytes, before, after));
}
[[gnu::weak]] struct shadowmmu_kit_backing shadowmmu_kit_backing_of(shadowmmu_kit_machine* machine, std::uint64_t gfn,
                                                                    int write) {
  using Kind = shadowmmu::Backing::Kind;
  const shadowmmu::Backing b = shadowmmu::sim::detail::machine_of(machine).backing(shadowmmu::Gfn{gfn}, write != 0);
  const int kind = b.kind == Kind::Memory     ? SHADOWMMU_KIT_MEMORY
                   : b.kind == Kind::ReadOnly ? SHADOWMMU_KIT_ROM
                                              : SHADOWMMU_KIT_NOTHING;
  return {kind, b.writable ? 1 : 0, static_cast<int>(b.level.value()), static_cast<int>(b.type), b.pfn.value()};
}
[[gnu::weak]] void shadowmmu_kit_flush(shadowmmu_kit_machine* machine, std::uint32_t vcpu, int everything,
                                       std::uint64_t first, std::uint64_t pages) {
  using Scope = shadowmmu::FlushRequest::Scope;
  shadowmmu::sim::detail::machine_of(machine).flush(
      {everything != 0 ? Scope::Structures : Scope::Range, shadowmmu::VcpuId{vcpu}, first, pages});
}
[[gnu::weak]] void shadowmmu_kit_kick(shadowmmu_kit_machine* machine, std::uint32_t vcpu) {
  shadowmmu::sim::detail::machine_of(machine).kick_and_wait(shadowmmu::VcpuId{vcpu});
}

[[gnu::weak]] int shadowmmu_kit_run(const struct shadowmmu_kit_mmu* mmu, const struct shadowmmu_kit_options* options) {
  using namespace shadowmmu;
  using namespace shadowmmu::sim;
  const auto say = [&](const std::string& line) {
    if (options->say != nullptr)
      options->say(options->to, line.c_str());
    else
      std::printf("%s\n", line.c_str());
  };
  const bool direct = options->second_level != 0;
  if (mmu->create == nullptr || mmu->destroy == nullptr || mmu->enter == nullptr || mmu->fault == nullptr ||
      mmu->guest_wrote == nullptr || mmu->unmap_begin == nullptr || mmu->unmap_end == nullptr ||
      (!direct &&
       (mmu->set_control == nullptr || mmu->set_cr3 == nullptr || mmu->invlpg == nullptr || mmu->flush == nullptr))) {
    say("shadowmmu kit: the MMU lacks a function that every MMU must have (sim/conformance.h)");
    return 2;
  }
  bool made = true;
  const world::MakeSubject make = [&](world::Machine& m, const world::MachineConfig& c) {
    auto s = std::make_unique<ForeignSubject>(*mmu, m, c);
    made = made && s->made();
    return s;
  };
  const world::Kind kind{direct, options->no_accessed_dirty == 0, false, false};
  const std::uint64_t seeds = options->seeds != 0 ? options->seeds : 400;
  for (std::uint64_t seed = options->first_seed; seed < options->first_seed + seeds; ++seed) {
    const world::Find found = world::try_seed(seed, options->actions != 0 ? options->actions : 200, kind, make);
    if (!made) {
      say("shadowmmu kit: the MMU could not be made");
      return 2;
    }
    if (found.failure.empty()) continue;
    say(found.report());
    return 1;
  }
  say(std::to_string(seeds) + " seeds from " + std::to_string(options->first_seed) + ": nothing wrong was found");
  return 0;
}
}
