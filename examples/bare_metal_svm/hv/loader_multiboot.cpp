// SPDX-License-Identifier: BSL-1.0
#include <cstring>

#include "loader.hpp"
#include "multiboot.hpp"

namespace hv {
namespace {

struct ElfHeader {
  std::uint8_t ident[16];
  std::uint16_t type, machine;
  std::uint32_t version, entry, program_headers, section_headers, flags;
  std::uint16_t header_size, program_header_size, program_header_count, section_size, section_count, names;
};
struct ProgramHeader {
  std::uint32_t type, offset, virtual_address, physical_address, file_size, memory_size, flags, align;
};
static_assert(sizeof(ElfHeader) == 52 && sizeof(ProgramHeader) == 32);

bool has_multiboot_header(const BootModule& file) noexcept {
  for (std::uint64_t at = 0; at + 12 <= file.size && at + 12 <= multiboot::kHeaderSearch; at += 4) {
    std::uint32_t h[3];
    std::memcpy(h, file.data + at, sizeof h);
    if (h[0] == multiboot::kHeaderMagic && h[0] + h[1] + h[2] == 0) return true;
  }
  return false;
}

bool read_header(const BootModule& file, ElfHeader& e) noexcept {
  constexpr std::uint8_t kIdent[] = {0x7F, 'E', 'L', 'F', 1, 1};  // 32 bits, little-endian
  if (file.size < sizeof e) return false;
  std::memcpy(&e, file.data, sizeof e);
  return std::memcmp(e.ident, kIdent, sizeof kIdent) == 0 && e.program_header_size == sizeof(ProgramHeader);
}

// Effects: `entry`, if it is a virtual address of a segment, becomes its physical one.
// Returns: the end of the highest segment, or 0 if one does not fit.
std::uint64_t load_segments(const BootModule& file, const ElfHeader& e, GuestMemory& memory,
                            std::uint32_t& entry) noexcept {
  constexpr std::uint32_t kLoad = 1;
  std::uint64_t end = kMiB;
  for (unsigned i = 0; i < e.program_header_count; ++i) {
    ProgramHeader p;
    const std::uint64_t at = e.program_headers + std::uint64_t{i} * sizeof p;
    if (at + sizeof p > file.size) return 0;
    std::memcpy(&p, file.data + at, sizeof p);
    if (p.type != kLoad) continue;
    if (std::uint64_t{p.offset} + p.file_size > file.size || p.memory_size < p.file_size) return 0;
    const std::uint64_t to = p.physical_address;
    if (!memory.fill(to, 0, p.memory_size) || !memory.write(to, file.data + p.offset, p.file_size)) return 0;
    if (to + p.memory_size > end) end = to + p.memory_size;
    if (e.entry - p.virtual_address < p.memory_size) entry = e.entry - p.virtual_address + p.physical_address;
  }
  return end;
}

/// Hands out guest memory upwards and writes to it.
class Placer {
 public:
  Placer(GuestMemory& memory, std::uint64_t from) noexcept : memory_(memory), next_(from) {}
  /// Returns: where the bytes went.
  std::uint32_t put(const void* data, std::uint64_t size, std::uint64_t align) noexcept {
    const std::uint64_t at = (next_ + align - 1) & ~(align - 1);
    next_ = at + size;
    if (next_ > 0xFFFFFFFF || !memory_.write(at, data, size)) failed_ = true;
    return static_cast<std::uint32_t>(at);
  }
  std::uint32_t put(const char* text) noexcept { return put(text, std::strlen(text) + 1, 4); }
  [[nodiscard]] std::uint64_t next() const noexcept { return next_; }
  [[nodiscard]] bool failed() const noexcept { return failed_; }

 private:
  GuestMemory& memory_;
  std::uint64_t next_;
  bool failed_ = false;
};

std::uint32_t put_map(Placer& place, const MemoryMap& map, std::uint32_t& length) noexcept {
  static multiboot::MapEntry entries[MemoryMap::kCapacity];
  unsigned n = 0;
  for (const Region& r : map) entries[n++] = {sizeof(multiboot::MapEntry) - 4, r.base, r.size, r.type};
  length = static_cast<std::uint32_t>(n * sizeof entries[0]);
  return place.put(entries, length, 8);
}

}  // namespace

LoadResult load_multiboot(const BootInfo& boot, GuestMemory& memory, EntryState& entry) noexcept {
  const BootModule& file = boot.modules[0];
  ElfHeader e;
  if (!read_header(file, e) || !has_multiboot_header(file)) return LoadResult::NotMine;
  std::uint32_t start = e.entry;
  const std::uint64_t end = load_segments(file, e, memory, start);
  if (end == 0) return LoadResult::DoesNotFit;

  Placer place(memory, end);
  multiboot::Info info{};
  info.flags = multiboot::kInfoMemory | multiboot::kInfoCommandLine | multiboot::kInfoMap | multiboot::kInfoLoaderName;
  info.mem_lower = GuestMemory::kBiosPage << 12 >> 10;  // KiB
  info.mem_upper = static_cast<std::uint32_t>((memory.main_end() - kMiB) >> 10);
  if (boot.module_count > 1) {
    const BootModule& m = boot.modules[1];
    const std::uint32_t at = place.put(m.data, m.size, 4096);
    const multiboot::Module module{at, static_cast<std::uint32_t>(at + m.size), place.put(m.string), 0};
    info.flags |= multiboot::kInfoModules;
    info.module_count = 1;
    info.modules = place.put(&module, sizeof module, 4);
  }
  info.command_line = place.put(file.string);
  info.loader_name = place.put("shadowmmu");
  info.map = put_map(place, memory.map(), info.map_length);
  const std::uint32_t info_at = place.put(&info, sizeof info, 8);
  const std::uint64_t gdt = (place.next() + 15) & ~15ULL;
  if (place.failed() || !write_gdt(memory, gdt, entry)) return LoadResult::DoesNotFit;
  entry.rip = start;
  entry.rax = multiboot::kLoaderMagic;
  entry.rbx = info_at;
  return LoadResult::Ok;
}

}  // namespace hv
