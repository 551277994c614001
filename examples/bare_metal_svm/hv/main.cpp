// SPDX-License-Identifier: BSL-1.0
// From the loader's hands to the guest's first instruction.
#include <new>

#include "bios.hpp"
#include "boot_modules.hpp"
#include "cpu.hpp"
#include "cpu_ops.hpp"
#include "features.hpp"
#include "host_exceptions.hpp"
#include "loader.hpp"
#include "migration.hpp"
#include "multiboot.hpp"
#include "report.hpp"
#include "serial.hpp"
#include "torture.hpp"

extern "C" char hv_image_end[];

namespace hv {
namespace {

// Ours in every run: [1 MiB, 50 MiB) of the host. It holds the image, the modules until they are copied, and all
// tables.
constexpr std::uint64_t kReservationEnd = 50 * kMiB, kBlockBytes = 2 * kMiB;

alignas(4096) Vmcb vmcb;
template <class T>
struct Storage {
  alignas(T) std::byte bytes[sizeof(T)];
};
Storage<Vm> vm_storage;
Storage<Mmu> mmu_storage;
Storage<Cpu> cpu_storage;

Mmu::Caps mmu_capabilities(const BootInfo& boot) noexcept {
  Mmu::Caps caps;
  caps.host_address_bits = static_cast<std::uint8_t>(host_address_bits());
  caps.guest_address_bits = kGuestAddressBits;
  caps.guest_1g = kGuestHugePages;
  caps.nx_huge = boot.option("nx_huge", 0) != 0;
  return caps;
}

[[noreturn]] void refuse(const char* why) noexcept {
  say("error: ", why);
  stop(kStatusError);
}

std::uint64_t highest_ram(const MemoryMap& map) noexcept {
  std::uint64_t end = 0;
  for (const Region& r : map)
    if (r.type == kRam && r.end() > end) end = r.end();
  return end;
}

// Effects: splits the host's memory between us and the guest, loads the guest, and keeps what the modules took.
// `spare` bytes in front of the guest's memory are left to nobody.
EntryState lay_out(Vm& vm, const BootInfo& boot, std::uint64_t spare, std::uint64_t& spare_at) noexcept {
  std::uint64_t carved = (boot.end + 4095) & ~4095ULL;
  const std::uint64_t tables = (highest_ram(boot.memory) >> 12) * 8 + 2 * 4096;
  std::uint64_t reserved_end = (carved + tables + kBlockBytes - 1) & ~(kBlockBytes - 1);
  if (reserved_end < kReservationEnd) reserved_end = kReservationEnd;
  spare_at = reserved_end;
  reserved_end += spare;
  const auto carve = [&carved](std::uint64_t bytes) {
    const std::uint64_t at = carved;
    carved += (bytes + 4095) & ~4095ULL;
    return reinterpret_cast<void*>(at);
  };
  vm.memory.build(boot.memory, reserved_end, carve);
  if (vm.memory.main_end() < 2 * kBlockBytes) refuse("not enough memory");

  hook_bios(vm.memory);

  EntryState entry;
  LoadResult result = load_linux(boot, vm.memory, entry);
  if (result == LoadResult::NotMine) result = load_multiboot(boot, vm.memory, entry);
  if (result == LoadResult::NotMine) refuse("module 0 is not a kernel: neither a bzImage nor an ELF32 multiboot file");
  if (result == LoadResult::DoesNotFit) refuse("module 0 does not fit into the guest's memory");

  vm.frames.feed(carved, spare_at);
  vm.frames.feed(reinterpret_cast<std::uint64_t>(hv_image_end), boot.end);
  return entry;
}

// One slot for all that the guest can name; what no RAM backs there is devices. RAM has its own where it may be logged
// (migration); under torture there are many.
void add_slots(Cpu& cpu, const Torture::Options& torture) noexcept {
  constexpr std::uint64_t kFrames = 1ULL << (kGuestAddressBits - 12);
  if (cpu.vm.memory.frames() > kFrames) refuse("more memory than the guest can address");
  if (torture.rate != 0) {
    cpu.ports.console = true;
    cpu.torture = start_torture(cpu, torture, kFrames);
    return;
  }
  const auto add = [&cpu](std::uint64_t first, std::uint64_t end) {
    const auto id = cpu.mmu.add_slot(shadowmmu::Gfn{first}, end - first);
    if (!id.ok()) refuse("the MMU takes no slot");
    return id.value();
  };
  if (cpu.migration == nullptr) {
    add(0, kFrames);
    return;
  }
  constexpr std::uint64_t kPiece = 32768;
  const std::uint64_t main_end = cpu.vm.memory.main_end() >> 12;
  std::uint64_t at = kMiB >> 12;
  add(0, at);
  for (unsigned n = 0; n < 4 && at + kPiece <= main_end; ++n, at += kPiece)
    static_cast<void>(cpu.migration->adopt(add(at, at + kPiece), at, kPiece));
  add(at, kFrames);
}

void prepare_migration(Cpu& cpu, const Migration::Options& options) noexcept {
  if (options.rate == 0) return;
  if (!kHasReaders) refuse("this hypervisor has no readers: migration is for hv_migration.elf");
  if (!find_alarm()) refuse("migration wants an HPET that sends messages (QEMU: -global hpet.msi=true)");
  cpu.migration = make_migration(cpu, options);
}

void power_on(Cpu& cpu, const EntryState& entry) noexcept {
  enter_flat_mode(*cpu.vmcb, entry);
  cpu.gpr[kRax] = entry.rax;
  cpu.gpr[kRbx] = entry.rbx;
  cpu.gpr[kRsi] = entry.rsi;
  cpu.controls = {.cr0 = 0x11, .cr4 = 0, .efer = 0};  // PE, ET
  if (cpu.vcpu.set_control(cpu.controls) != shadowmmu::ControlOutcome::Done ||
      cpu.vcpu.set_cr3(0) != shadowmmu::ControlOutcome::Done)
    refuse("the MMU takes no guest without paging");
}

}  // namespace
}  // namespace hv

extern "C" [[noreturn]] void hv_main(std::uint32_t magic, std::uint32_t info) {
  using namespace hv;
  install_exception_table();
  if (magic != multiboot::kLoaderMagic) refuse("not started by a multiboot loader");
  const BootInfo boot = read_boot_info(info);
  if (boot.module_count == 0) refuse("module 0 is not a kernel: there is none");

  auto& vm = *new (vm_storage.bytes) Vm;
  auto& mmu = *new (mmu_storage.bytes) Mmu(vm, mmu_capabilities(boot));
  // All options before the frames are ours to hand out: the command line lies in one of them.
  const std::uint64_t limit = boot.option("limit", 0);
  Torture::Options torture{.rate = boot.option("torture", 0), .seed = boot.option("seed", 0)};
  Migration::Options migration{.rate = boot.option("migration", 0), .seed = boot.option("seed", read_tsc() & 0xFFFFFF)};
  const EntryState entry = lay_out(vm, boot, torture.rate != 0 ? Mover::kSpareBytes : 0, torture.spare);
  migration.own_end = torture.spare;

  auto& cpu = *new (cpu_storage.bytes) Cpu(vm, mmu);
  cpu.vmcb = &vmcb;
  prepare_migration(cpu, migration);
  add_slots(cpu, torture);
  // A shadow page takes less than two frames.
  mmu.set_limit(static_cast<std::uint32_t>(limit != 0 ? limit : vm.frames.available() / 2));
  power_on(cpu, entry);
  prepare(cpu);
  say("guest of ", vm.memory.ram_frames() >> 8, " MiB, ", boot.modules[0].size >> 10, " KiB kernel");
  if (cpu.migration != nullptr) cpu.migration->start();
  run(cpu);
}
