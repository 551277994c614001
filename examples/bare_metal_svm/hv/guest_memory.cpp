// SPDX-License-Identifier: BSL-1.0
#include "guest_memory.hpp"

#include <cstring>

namespace hv {
namespace {

// A table entry: a host frame, and whether the whole aligned 2 MiB around it moved together.
constexpr std::uint32_t kNotRam = 0xFFFFFFFF, kWhole = 1U << 31;
constexpr std::uint64_t kBlock = 512;  // frames of a 2 MiB block
constexpr std::uint64_t kFirstHigh = kMiB >> 12;
// Guest addresses whose host frame is somebody else's RAM are sent there, where no device answers.
constexpr std::uint64_t kVoidFrames = 1ULL << (39 - 12);
// Frame 0 holds the BIOS data area, and the last page below 640 KiB the extended one: firmware finds them by address.
constexpr std::uint64_t kFirstLow = 1, kEndLow = 0x9F;
static_assert(GuestMemory::kBiosPage >= kFirstLow && GuestMemory::kBiosPage < kEndLow);

constexpr std::uint64_t block_up(std::uint64_t frame) noexcept { return (frame + kBlock - 1) & ~(kBlock - 1); }

// Frame 0 as well, whose own address would be the null pointer.
std::byte* bytes_of(std::uint64_t frame) noexcept {
  constexpr std::uint64_t kSecondView = 1ULL << 39;  // boot.S
  return reinterpret_cast<std::byte*>(frame == 0 ? kSecondView : frame << 12);
}

class Shuffler {
 public:
  void operator()(std::uint32_t* items, std::uint64_t n) noexcept {
    for (std::uint64_t i = n; i > 1; --i) {
      state_ ^= state_ << 13;
      state_ ^= state_ >> 7;
      state_ ^= state_ << 17;
      const std::uint64_t j = state_ % i;
      const std::uint32_t keep = items[i - 1];
      items[i - 1] = items[j];
      items[j] = keep;
    }
  }

 private:
  std::uint64_t state_ = 0x9E3779B97F4A7C15;  // fixed, so that a run can be repeated
};

struct FrameRange {
  std::uint64_t first, end;
};
// Whole frames of a RAM region above 1 MiB; empty for others.
FrameRange high_frames(const Region& r) noexcept {
  if (r.type != kRam) return {0, 0};
  std::uint64_t first = (r.base + 4095) >> 12;
  if (first < kFirstHigh) first = kFirstHigh;
  const std::uint64_t end = r.end() >> 12;
  return end > first ? FrameRange{first, end} : FrameRange{0, 0};
}

}  // namespace

void GuestMemory::plan(const MemoryMap& host, std::uint64_t reserved_end) noexcept {
  constexpr std::uint64_t kBios = kBiosPage << 12;
  host_ = host;
  reserved_end_ = reserved_end;
  for (const Region& r : host) {
    Region mine = r;
    if (r.type == kRam && r.base == kMiB) {
      // The guest loses the end of its memory for what we take at the beginning of the host's.
      mine.size = r.end() - reserved_end;
      main_end_ = mine.end();
      guest_.add(mine);
      guest_.add({mine.end(), r.end() - mine.end(), kReserved});
    } else if (r.type == kRam && r.base < kBios && r.end() > kBios) {
      mine.size = kBios - r.base;
      guest_.add(mine);
      guest_.add({kBios, r.end() - kBios, kReserved});
    } else {
      guest_.add(mine);
    }
    if (mine.type == kRam && mine.end() >> 12 > frames_) frames_ = mine.end() >> 12;
  }
}

void GuestMemory::shuffle(std::uint32_t* scratch) noexcept {
  for (std::uint64_t f = 0; f < frames_; ++f) table_[f] = kNotRam;
  table_[0] = 0;
  Shuffler mix;

  std::uint64_t n = 0;
  for (std::uint64_t f = kFirstLow; f < kEndLow; ++f) scratch[n++] = static_cast<std::uint32_t>(f);
  mix(scratch, n);
  for (std::uint64_t f = kFirstLow; f < kEndLow; ++f) table_[f] = scratch[f - kFirstLow];

  // scratch: whole host blocks from the front, single host frames from the back.
  std::uint64_t blocks = 0, singles = frames_;
  const auto host_range = [&](const Region& r) {
    FrameRange h = high_frames(r);
    if (h.first < reserved_end_ >> 12 && h.end != 0) h.first = reserved_end_ >> 12;
    return h;
  };
  const auto add_single = [&](std::uint64_t f) { scratch[--singles] = static_cast<std::uint32_t>(f); };
  for (const Region& r : host_) {
    const FrameRange h = host_range(r);
    for (std::uint64_t f = h.first; f < h.end;) {
      if (f == block_up(f) && f + kBlock <= h.end) {
        scratch[blocks++] = static_cast<std::uint32_t>(f);
        f += kBlock;
      } else {
        add_single(f++);
      }
    }
  }
  mix(scratch, blocks);

  std::uint64_t used = 0, seen = 0;
  for (const Region& r : guest_) {
    const FrameRange g = high_frames(r);
    for (std::uint64_t f = block_up(g.first); f + kBlock <= g.end; f += kBlock) {
      if (seen++ % 4 == 3 || used == blocks) continue;
      const std::uint32_t to = scratch[used++];
      for (std::uint64_t i = 0; i < kBlock; ++i) table_[f + i] = static_cast<std::uint32_t>(to + i) | kWhole;
    }
  }
  for (std::uint64_t b = used; b < blocks; ++b) {
    const std::uint32_t from = scratch[b];
    for (std::uint64_t i = 0; i < kBlock; ++i) add_single(from + i);
  }
  mix(scratch + singles, frames_ - singles);
  for (const Region& r : guest_) {
    const FrameRange g = high_frames(r);
    for (std::uint64_t f = g.first; f < g.end; ++f)
      if (table_[f] == kNotRam && singles < frames_) table_[f] = scratch[singles++];
  }
  for (std::uint64_t f = 0; f < frames_; ++f)
    if (table_[f] != kNotRam) ++ram_frames_;
}

GuestMemory::Place GuestMemory::place(std::uint64_t gfn) const noexcept {
  if (gfn < frames_ && table_[gfn] != kNotRam) {
    const std::uint32_t entry = table_[gfn];
    return {entry & ~kWhole, (entry & kWhole) != 0 ? 2U : 1U, true};
  }
  // Firmware's frames and devices. The last page below 640 KiB is half RAM, half firmware's.
  const bool firmware = gfn >= kEndLow && gfn < kFirstHigh;
  if (firmware || !host_.touches_ram(gfn)) return {gfn, 1, false};
  return {gfn + kVoidFrames, 1, false};
}

bool GuestMemory::whole(std::uint64_t gfn) const noexcept {
  return gfn < frames_ && table_[gfn] != kNotRam && (table_[gfn] & kWhole) != 0;
}

void GuestMemory::put(std::uint64_t gfn, std::uint64_t frame) noexcept {
  if (whole(gfn)) {
    const std::uint64_t block = gfn & ~(kBlock - 1);
    for (std::uint64_t i = 0; i < kBlock; ++i) table_[block + i] &= ~kWhole;
  }
  table_[gfn] = static_cast<std::uint32_t>(frame);
}

void GuestMemory::put_block(std::uint64_t gfn, std::uint64_t frame) noexcept {
  for (std::uint64_t i = 0; i < kBlock; ++i) table_[gfn + i] = static_cast<std::uint32_t>(frame + i) | kWhole;
}

std::byte* GuestMemory::ram(std::uint64_t gfn) const noexcept {
  const Place p = place(gfn);
  return p.ram ? bytes_of(p.frame) : nullptr;
}

std::byte* GuestMemory::readable(std::uint64_t gfn) const noexcept {
  const Place p = place(gfn);
  return p.frame < kVoidFrames ? bytes_of(p.frame) : nullptr;
}

template <class F>
bool GuestMemory::each_piece(std::uint64_t gpa, std::uint64_t bytes, F f) const noexcept {
  while (bytes != 0) {
    const std::uint64_t offset = gpa & 4095;
    const std::uint64_t piece = bytes < 4096 - offset ? bytes : 4096 - offset;
    if (!f(gpa >> 12, offset, piece)) return false;
    gpa += piece;
    bytes -= piece;
  }
  return true;
}

bool GuestMemory::write(std::uint64_t gpa, const void* from, std::uint64_t bytes) noexcept {
  const auto* s = static_cast<const std::byte*>(from);
  return each_piece(gpa, bytes, [&](std::uint64_t gfn, std::uint64_t offset, std::uint64_t piece) {
    std::byte* const page = ram(gfn);
    if (page == nullptr) return false;
    std::memcpy(page + offset, s, piece);
    s += piece;
    return true;
  });
}

bool GuestMemory::read(std::uint64_t gpa, void* to, std::uint64_t bytes) const noexcept {
  auto* d = static_cast<std::byte*>(to);
  return each_piece(gpa, bytes, [&](std::uint64_t gfn, std::uint64_t offset, std::uint64_t piece) {
    const std::byte* const page = readable(gfn);
    if (page == nullptr) return false;
    std::memcpy(d, page + offset, piece);
    d += piece;
    return true;
  });
}

bool GuestMemory::fill(std::uint64_t gpa, std::uint8_t value, std::uint64_t bytes) noexcept {
  return each_piece(gpa, bytes, [&](std::uint64_t gfn, std::uint64_t offset, std::uint64_t piece) {
    std::byte* const page = ram(gfn);
    if (page == nullptr) return false;
    std::memset(page + offset, value, piece);
    return true;
  });
}

bool GuestMemory::is_ram(std::uint64_t gpa, std::uint64_t bytes) const noexcept {
  return each_piece(gpa, bytes, [&](std::uint64_t gfn, std::uint64_t, std::uint64_t) { return ram(gfn) != nullptr; });
}

}  // namespace hv
