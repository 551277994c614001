// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

/// Two threads of the hypervisor on its one CPU: the vCPU's, in which everything else happens, and the migration's. An
/// NMI takes the CPU from either, wherever it is, and gives it to the other.
///
/// NMIs, since all other interrupts are the guest's: GIF = 1 and IF = 0 lets ours through while the guest's stay
/// pending for the next VMRUN. Their source is an HPET timer, which the guest does not get to see.
namespace hv {

enum class Thread : unsigned { Vcpu, Migration };

/// What each thread may read of the other, which does not move meanwhile.
struct ThreadState {
  volatile bool preemptible = false;  ///< NMIs come now
  volatile bool gives_way = false;    ///< the next "NMI" is none
  volatile unsigned current = 0;      ///< a Thread
  volatile std::uint64_t switches = 0;
  volatile unsigned locks[2] = {};  ///< of the MMU's locks, those that the thread holds
  volatile std::uint64_t lockings[2] = {}, waits[2] = {};

  [[nodiscard]] bool holds_lock(Thread t) const noexcept { return locks[static_cast<unsigned>(t)] != 0; }
};
inline ThreadState threads;

/// While it lives no NMI comes. Nests; does nothing before the threads begin.
class Uninterrupted {
 public:
  Uninterrupted() noexcept : was_(threads.preemptible) {
    if (!was_) return;
    asm volatile("clgi" : : : "memory");
    threads.preemptible = false;
  }
  ~Uninterrupted() {
    if (!was_) return;
    threads.preemptible = true;
    asm volatile("stgi" : : : "memory");
  }
  Uninterrupted(const Uninterrupted&) = delete;
  Uninterrupted& operator=(const Uninterrupted&) = delete;

 private:
  bool was_;
};

/// Effects: the other thread goes on at once. Does nothing before the threads begin.
inline void give_way() noexcept {
  if (!threads.preemptible) return;
  // Unlike an NMI, an INT does not keep NMIs off.
  asm volatile("clgi" : : : "memory");
  threads.gives_way = true;
  asm volatile("int $2\n\tstgi" : : : "memory");
}

/// What took the CPU from the vCPU's thread, by where: behind an exit, or anywhere else in the hypervisor (of that,
/// inside a critical section of the MMU); and how often the migration was stopped anywhere, or stopped by itself.
struct SwitchCounts {
  std::uint64_t from_guest = 0, from_host = 0, under_lock = 0, preempted = 0, gave_way = 0;
};

/// Effects: takes an HPET timer for good. Returns: whether there is one that sends NMIs. Call it before the guest runs,
/// which does not find the HPET afterwards.
[[nodiscard]] bool find_alarm() noexcept;
/// Effects: from now on the CPU goes to and fro between the caller and `work`, which begins on a stack of its own, some
/// `rate` times a second for a small part of the time. Requires: find_alarm() found one; SVM is on. `work` never
/// returns.
void start_threads(void (*work)(), std::uint64_t rate, std::uint64_t seed) noexcept;
/// Effects: no NMIs any more; the caller has the CPU for itself. Requires: the other thread holds no lock, and is in no
/// reader section.
void end_threads() noexcept;
[[nodiscard]] const SwitchCounts& switch_counts() noexcept;

}  // namespace hv
