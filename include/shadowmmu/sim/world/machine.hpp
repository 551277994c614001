// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shadowmmu/sim/cpu.hpp"
#include "shadowmmu/sim/poison.hpp"
#include "shadowmmu/sim/world/guest_memory.hpp"

/// The hardware and the host around the MMU that is tried: guest memory, frames for tables, and CPUs whose caches hear
/// the flushes that are asked for, and only those. It is a Host of the library, and what a foreign implementation calls
/// through conformance.h.
namespace shadowmmu::sim::world {

/// Told of what the MMU does to its surroundings while it is done.
class MachineObserver {
 public:
  virtual ~MachineObserver() = default;
  /// A compare-exchange on guest memory succeeded.
  virtual void exchanged(Gpa at, unsigned bytes, std::uint64_t old, std::uint64_t now) = 0;
  /// Returns: whether the slot of the frame is changing, so that the MMU may treat it either way.
  [[nodiscard]] virtual bool changes(std::uint64_t gfn) = 0;
  /// Something was asked for that no order of events makes right.
  virtual void broken(const std::string& what) = 0;
};

class Machine : public GuestMemory {
 public:
  explicit Machine(const MachineConfig& c) : GuestMemory(c) {
    CpuConfig cpu;
    cpu.max_phys_addr = c.host_address_bits;
    cpu.has_1g_pages = c.large_1g;
    cpu.ept = c.second_level;
    cpu.ept_features = c.ept;
    cpu.caches = c.caches;
    for (unsigned i = 0; i < c.vcpus; ++i) {
      cpu.seed = c.seed + i;
      vcpus_.push_back(std::make_unique<Hardware>(*this, cpu));
    }
  }

  // --- what the MMU calls ----------------------------------------------------------------------------------------
  Result<Hpa> alloc_frame(FrameKind k) noexcept {
    Agents::point();
    if (fail_in != 0 && --fail_in == 0) {
      failures += 1;
      return Error::OutOfMemory;
    }
    return Arena::alloc_frame(k);
  }
  /// A freed frame is filled with entries that lead nowhere, so that hardware which still walks it is found out.
  void free_frame(Hpa p) noexcept {
    unused(p);
    poison(to_virt(p));
    Arena::free_frame(p);
  }
  /// A frame is no table any more: no CPU that is in the guest may still walk it, and the others not when they are.
  void unused(Hpa p) {
    for (std::size_t n = 0; n < vcpus_.size(); ++n) {
      Hardware& h = *vcpus_[n];
      if (!h.loaded || !h.cpu.may_walk(p)) continue;
      if (h.inside)
        broken("a table was freed that vCPU " + std::to_string(n) + ", which is in the guest, may still walk");
      else
        h.outdated = true;
    }
  }
  GuestExchange guest_exchange(Gpa a, unsigned bytes, std::uint64_t old, std::uint64_t now) noexcept {
    Agents::point();
    char* page = static_cast<char*>(guest_page(frame_of(a)));
    if (page != nullptr && flagged(frame_of(a).value()) && !slot_is_changing(frame_of(a).value()))
      broken("a change of a table was asked for in a slot that takes no writes");
    if (page == nullptr || read_only(frame_of(a).value())) return GuestExchange::ReadOnly;
    const GuestExchange e = exchange(page + (a.value() & kPageMask), bytes, old, now);
    if (e == GuestExchange::Done && observer != nullptr) observer->exchanged(a, bytes, old, now);
    return e;
  }
  Backing backing(Gfn g, bool write) noexcept {
    Agents::point();
    const Backing b = GuestMemory::backing(g, write);
    Agents::point();  // what the MMU was told may be out of date by the time it uses it
    return b;
  }
  void flush(const FlushRequest& r) noexcept {
    Agents::point();
    for (std::size_t n = 0; n < vcpus_.size(); ++n)
      if (r.vcpus == kAllVcpus || static_cast<std::uint32_t>(r.vcpus) == n) vcpus_[n]->hear(r);
    Arena::flush(r);
  }
  void kick_and_wait(VcpuId id) noexcept {
    Agents::point();
    for (std::size_t n = 0; n < vcpus_.size(); ++n)
      if (id == kAllVcpus || static_cast<std::uint32_t>(id) == n) {
        vcpus_[n]->inside = false;
        vcpus_[n]->kicks += 1;
      }
  }
  /// Returns: whether the MMU said, since the last call of it, that this frame of low memory was written.
  [[nodiscard]] bool take_told(std::uint64_t gfn) {
    const bool was = gfn < GuestMap::kLow && told_[gfn];
    if (was) told_[gfn] = false;
    return was;
  }
  bool should_yield() noexcept { return yield_at_once; }
  void wrote(Gfn first, std::uint64_t pages) noexcept {
    for (std::uint64_t g = first.value(); g < first.value() + pages && g < GuestMap::kLow; ++g) told_[g] = true;
  }

  // --- CPUs --------------------------------------------------------------------------------------------------------
  /// One hardware thread that runs a vCPU.
  struct Hardware {
    Hardware(Machine& m, const CpuConfig& c) : cpu(m, c), second_level(c.ept) {}
    void hear(const FlushRequest& r) {
      if (r.scope == FlushRequest::Scope::Structures) {
        cpu.flush_all();
        may_hold.clear();
        reload = true;
        return;
      }
      // One page of one vCPU is its own INVLPG, which takes what leads there along.
      if (r.vcpus != kAllVcpus && !second_level && r.pages == 1)
        cpu.flush_page(Gva{r.first << kPageShift});
      else
        cpu.flush_range(r.first << kPageShift, r.pages);
      for (auto& [number, held] : may_hold)
        std::erase_if(held, [&, page = number](const CachedPage& e) {
          // A TLB may keep a large page in pieces. INVLPG takes them all; a range of gfns is what it says.
          const std::uint64_t size = second_level ? 1 : std::uint64_t{1} << (e.shift - kPageShift);
          const std::uint64_t first = page & ~(size - 1);
          return first < r.first + r.pages && r.first < first + size;
        });
    }
    Cpu<GuestMemory> cpu;
    bool second_level;
    HwState registers{};
    bool loaded = false;  ///< it has run
    bool reload = true;   ///< CR3 must be loaded before the next entry
    bool inside = false;  ///< in the guest: it may go on without enter() until it exits or is kicked
    std::uint64_t kicks = 0;
    bool outdated = false;  ///< something that it may walk was freed while it was out of the guest
    /// Page -> what a TLB that loses nothing might say of it.
    std::map<std::uint64_t, std::vector<CachedPage>> may_hold;
  };
  [[nodiscard]] Hardware& vcpu(unsigned n) { return *vcpus_[n]; }
  /// Effects: the vCPU enters the guest with these registers, which it loads where they differ or a flush wants it.
  [[nodiscard]] bool run(unsigned n, const HwState& hw) {
    Hardware& h = *vcpus_[n];
    const bool same = h.loaded && hw.cr0 == h.registers.cr0 && hw.cr3 == h.registers.cr3 && hw.cr4 == h.registers.cr4 &&
                      hw.efer == h.registers.efer;
    h.inside = true;
    if (same && !h.reload) {
      if (h.outdated) broken("vCPU " + std::to_string(n) + " entered the guest with caches that know a freed table");
      return true;
    }
    h.registers = hw;
    h.loaded = true;
    h.reload = h.outdated = false;
    h.may_hold.clear();
    return h.cpu.load(hw) == LoadOutcome::Ok;
  }

  MachineObserver* observer = nullptr;
  bool small_code = false;     ///< the MMU lets nobody execute from a large page
  std::uint64_t failures = 0;  ///< allocations that were made to fail
  std::uint64_t fail_in = 0;   ///< the n-th allocation from now fails
  bool yield_at_once = false;  ///< long work is asked to yield whenever it may

 private:
  std::vector<bool> told_ = std::vector<bool>(GuestMap::kLow);
  [[nodiscard]] bool slot_is_changing(std::uint64_t gfn) { return observer != nullptr && observer->changes(gfn); }
  void broken(const std::string& what) {
    if (observer != nullptr) observer->broken(what);
  }

  std::vector<std::unique_ptr<Hardware>> vcpus_;
};
static_assert(Host<Machine>);

}  // namespace shadowmmu::sim::world
