// SPDX-License-Identifier: BSL-1.0
#include "report.hpp"

#include "cpu.hpp"
#include "cpu_ops.hpp"
#include "migration.hpp"
#include "serial.hpp"
#include "torture.hpp"

namespace hv {
namespace {

void report_exits(const ExitCounts& c) noexcept {
  say("exits: total=", c.total, " page_fault=", c.page_fault, " control_read=", c.control_read,
      " control_write=", c.control_write, " cr3=", c.cr3_write, " invlpg=", c.invlpg);
  say("exits: cpuid=", c.cpuid, " msr=", c.msr, " io=", c.io, " svm=", c.svm, " steps=", c.steps,
      " reinjected=", c.reinjected);
}

void report_memory(const Vm& vm) noexcept {
  say("frames: own=", vm.frames.total(), " free=", vm.frames.available(), " guest=", vm.memory.ram_frames());
}

#define SHADOWMMU_HV_TEXT_OF(name) #name
#define SHADOWMMU_HV_TEXT(macro) SHADOWMMU_HV_TEXT_OF(macro)
constexpr const char* kReclaim = SHADOWMMU_HV_TEXT(SHADOWMMU_HV_RECLAIM);

void report_mmu(Mmu& mmu) noexcept {
  const shadowmmu::Counters c = mmu.stats();
  say("faults: total=", c.faults, " fixed=", c.faults_fixed, " spurious=", c.faults_spurious, " guest=", c.faults_guest,
      " mmio=", c.faults_mmio, " emulated=", c.faults_emulated, " retried=", c.faults_retried,
      " prefetched=", c.prefetched);
  say("pages: created=", c.pages_created, " zapped=", c.pages_zapped, " recycled=", c.pages_recycled,
      " flooded=", c.pages_flooded, " unsynced=", c.pages_unsynced, " synced=", c.pages_synced,
      " entries_resynced=", c.entries_resynced);
  say("reclaim: policy=", kReclaim, " recycled_entries=", c.recycled_entries,
      " recycled_directories=", c.recycled_directories, " recycled_orphans=", c.recycled_orphans,
      " accessed_tests=", c.accessed_tests, " links=", c.links);
  say("roots: reused=", c.roots_reused, " built=", c.roots_built, "; tracked_writes=", c.tracked_writes,
      " windows=", c.windows, " invlpg=", c.invlpg, " flushes=", c.flushes);
  say("shadow pages: used=", c.pages_used, " lowest=", c.pages_used_lowest, " highest=", c.pages_used_highest,
      " limit=", mmu.limit(), "; rmap: longest=", c.rmap_longest, " zapped_long=", c.rmap_zapped_long);
}

void report_all(Cpu& cpu) noexcept {
  // First, for it ends what goes on beside us.
  if (cpu.migration != nullptr) cpu.migration->report();
  report_exits(cpu.counts);
  report_memory(cpu.vm);
  report_mmu(cpu.mmu);
  if (cpu.torture != nullptr) cpu.torture->report();
  const shadowmmu::AuditReport audit = cpu.mmu.audit();
  if (audit.violations != 0) say("audit: first at ", audit.at, ": ", audit.first);
  say("audit: ", audit.violations, " violations");
  serial_drain();
}

}  // namespace

void report(Cpu& cpu, const char* how) noexcept {
  say("guest exit: ", how);
  report_all(cpu);
}

void report(Cpu& cpu, const char* how, std::uint64_t number) noexcept {
  say("guest exit: ", how, number);
  report_all(cpu);
}

void leave_guest(Cpu& cpu, const char* how) noexcept {
  report(cpu, how);
  stop(kStatusGuestLeft);
}

void fail(Cpu& cpu, const char* what, std::uint64_t number) noexcept {
  const Vmcb& v = *cpu.vmcb;
  say("error: ", what, Hex{number});
  say("error: exit ", Hex{v.exit_code}, " info1 ", Hex{v.exit_info1}, " info2 ", Hex{v.exit_info2}, " cs:rip ",
      Hex{v.cs.selector}, ":", Hex{v.rip}, " cpl ", v.cpl + 0U);
  report(cpu, "hypervisor error");
  stop(kStatusError);
}

void stop(std::uint8_t status) noexcept {
  serial_drain();
  out8(0xF4, status);
  // No debug-exit device. A reset would end QEMU with status 0 (-no-reboot), like a success, and a real machine would
  // lose what was printed: it stands still.
  for (;;) asm volatile("cli; hlt");
}

}  // namespace hv
