// SPDX-License-Identifier: BSL-1.0
#include <cstring>

#include "loader.hpp"

namespace hv {
namespace {

// Offsets into the boot sector and into the zero page alike.
constexpr unsigned kSetupSectors = 0x1F1, kHeaderJump = 0x201, kHeaderMagic = 0x202, kVersion = 0x206,
                   kLoaderType = 0x210, kLoadFlags = 0x211, kInitrdAddress = 0x218, kInitrdSize = 0x21C,
                   kCommandLine = 0x228, kInitrdMax = 0x22C, kMapCount = 0x1E8, kMap = 0x2D0, kMapCapacity = 128,
                   kAltMemory = 0x1E0;
constexpr std::uint8_t kLoadedHigh = 1, kUnknownLoader = 0xFF;
constexpr std::uint64_t kZeroPage = 0x10000, kGdt = 0x11000, kCommandLineAt = 0x20000, kKernel = 0x100000;
constexpr std::size_t kCommandLineMax = 0x10000;

template <class T>
T load(const std::uint8_t* p) noexcept {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
void store(std::uint8_t* p, T v) noexcept {
  std::memcpy(p, &v, sizeof v);
}

struct [[gnu::packed]] MapEntry {
  std::uint64_t base, size;
  std::uint32_t type;
};

void write_map(std::uint8_t* zero_page, const MemoryMap& map) noexcept {
  unsigned n = 0;
  for (const Region& r : map) {
    if (n == kMapCapacity) break;
    store(zero_page + kMap + n++ * sizeof(MapEntry), MapEntry{r.base, r.size, r.type});
  }
  zero_page[kMapCount] = static_cast<std::uint8_t>(n);
}

// As high as the kernel takes it, to be out of the way of decompression.
std::uint64_t initrd_place(const GuestMemory& memory, std::uint64_t size, std::uint32_t max) noexcept {
  std::uint64_t end = memory.main_end();
  if (end > std::uint64_t{max} + 1) end = std::uint64_t{max} + 1;
  return size > end ? 0 : (end - size) & ~4095ULL;
}

}  // namespace

LoadResult load_linux(const BootInfo& boot, GuestMemory& memory, EntryState& entry) noexcept {
  const BootModule& file = boot.modules[0];
  if (file.size < 0x400 || load<std::uint32_t>(file.data + kHeaderMagic) != 0x53726448) return LoadResult::NotMine;
  // 2.05 is the first version whose kernel may lie where we put it; zImages load low.
  if (load<std::uint16_t>(file.data + kVersion) < 0x205 || (file.data[kLoadFlags] & kLoadedHigh) == 0)
    return LoadResult::NotMine;
  const std::uint64_t sectors = file.data[kSetupSectors] == 0 ? 4 : file.data[kSetupSectors];
  const std::uint64_t setup = (sectors + 1) * 512;
  if (setup >= file.size) return LoadResult::NotMine;

  static std::uint8_t zero_page[4096];
  const std::size_t header_end = kHeaderMagic + file.data[kHeaderJump];
  std::memcpy(zero_page + kSetupSectors, file.data + kSetupSectors, header_end - kSetupSectors);
  zero_page[kLoaderType] = kUnknownLoader;
  store(zero_page + kCommandLine, static_cast<std::uint32_t>(kCommandLineAt));
  store(zero_page + kAltMemory, static_cast<std::uint32_t>((memory.main_end() - kMiB) >> 10));
  write_map(zero_page, memory.map());

  if (boot.module_count > 1) {
    const BootModule& initrd = boot.modules[1];
    const std::uint64_t at = initrd_place(memory, initrd.size, load<std::uint32_t>(file.data + kInitrdMax));
    if (at < kKernel + file.size || !memory.write(at, initrd.data, initrd.size)) return LoadResult::DoesNotFit;
    store(zero_page + kInitrdAddress, static_cast<std::uint32_t>(at));
    store(zero_page + kInitrdSize, static_cast<std::uint32_t>(initrd.size));
  }
  const char* const arguments = file.arguments();
  const std::size_t length = std::strlen(arguments) + 1;
  if (length > kCommandLineMax || !memory.write(kCommandLineAt, arguments, length) ||
      !memory.write(kKernel, file.data + setup, file.size - setup) || !memory.write(kZeroPage, zero_page, 4096) ||
      !write_gdt(memory, kGdt, entry))
    return LoadResult::DoesNotFit;
  entry.rip = static_cast<std::uint32_t>(kKernel);
  entry.rsi = static_cast<std::uint32_t>(kZeroPage);
  return LoadResult::Ok;
}

}  // namespace hv
