// SPDX-License-Identifier: BSL-1.0
#include "decode.hpp"

namespace hv {
namespace {

constexpr unsigned kLongest = 15;

class Cursor {
 public:
  Cursor(const std::uint8_t* bytes, unsigned n) noexcept : bytes_(bytes), n_(n < kLongest ? n : kLongest) {}
  [[nodiscard]] std::uint8_t next() noexcept {
    if (at_ >= n_) {
      ran_out_ = true;
      return 0;
    }
    return bytes_[at_++];
  }
  /// A little-endian signed number of 1, 2 or 4 bytes.
  [[nodiscard]] std::int64_t number(unsigned size) noexcept {
    std::uint64_t v = 0;
    for (unsigned i = 0; i < size; ++i) v |= std::uint64_t{next()} << (8 * i);
    const unsigned unused = 64 - 8 * size;
    return static_cast<std::int64_t>(v << unused) >> unused;
  }
  [[nodiscard]] bool ran_out() const noexcept { return ran_out_; }
  [[nodiscard]] std::uint8_t at() const noexcept { return static_cast<std::uint8_t>(at_); }

 private:
  const std::uint8_t* bytes_;
  unsigned n_, at_ = 0;
  bool ran_out_ = false;
};

struct Prefixes {
  bool operand = false, address = false, lock = false, repeat = false, has_segment = false;
  SegmentName segment = SegmentName::Ds;
  std::uint8_t rex = 0;
};

// Returns: the first byte that is no prefix.
std::uint8_t take_prefixes(Cursor& in, bool long_code, Prefixes& p) noexcept {
  const auto segment = [&p](SegmentName s) {
    p.segment = s;
    p.has_segment = true;
  };
  for (;;) {
    const std::uint8_t b = in.next();
    if (in.ran_out()) return 0;
    const bool rex = long_code && (b & 0xF0) == 0x40;
    if (!rex) {
      switch (b) {
        case 0x66:
          p.operand = true;
          break;
        case 0x67:
          p.address = true;
          break;
        case 0xF0:
          p.lock = true;
          break;
        case 0xF2:
        case 0xF3:
          p.repeat = true;
          break;
        // 64-bit code ignores the first four.
        case 0x26:
          if (!long_code) segment(SegmentName::Es);
          break;
        case 0x2E:
          if (!long_code) segment(SegmentName::Cs);
          break;
        case 0x36:
          if (!long_code) segment(SegmentName::Ss);
          break;
        case 0x3E:
          if (!long_code) segment(SegmentName::Ds);
          break;
        case 0x64:
          segment(SegmentName::Fs);
          break;
        case 0x65:
          segment(SegmentName::Gs);
          break;
        default:
          return b;
      }
    }
    p.rex = rex ? b : std::uint8_t{0};  // counts only right before the opcode
  }
}

void memory_16(Cursor& in, unsigned mod, unsigned rm, MemoryOperand& m) noexcept {
  constexpr std::uint8_t kBx = 3, kBp = 5, kSi = 6, kDi = 7, kNo = MemoryOperand::kNone;
  constexpr std::uint8_t kBases[8] = {kBx, kBx, kBp, kBp, kSi, kDi, kBp, kBx};
  constexpr std::uint8_t kIndexes[8] = {kSi, kDi, kSi, kDi, kNo, kNo, kNo, kNo};
  m.base = kBases[rm];
  m.index = kIndexes[rm];
  if (mod == 0 && rm == 6) {
    m.base = kNo;
    m.displacement = in.number(2);
  }
  if (m.base == kBp) m.segment = SegmentName::Ss;
  if (mod == 1) m.displacement = in.number(1);
  if (mod == 2) m.displacement = in.number(2);
}

void memory_wide(Cursor& in, unsigned mod, unsigned rm, std::uint8_t rex, bool long_code, MemoryOperand& m) noexcept {
  const unsigned rex_b = (rex & 1U) << 3, rex_x = (rex & 2U) << 2;
  bool no_base = false;
  if (rm == 4) {
    const std::uint8_t sib = in.next();
    const unsigned index = ((sib >> 3) & 7U) | rex_x;
    if (index != 4) m.index = static_cast<std::uint8_t>(index);
    m.scale = static_cast<std::uint8_t>(sib >> 6);
    m.base = static_cast<std::uint8_t>((sib & 7U) | rex_b);
    no_base = (sib & 7U) == 5 && mod == 0;
  } else {
    m.base = static_cast<std::uint8_t>(rm | rex_b);
    no_base = rm == 5 && mod == 0;
    m.rip_relative = no_base && long_code;
  }
  if (no_base) {
    m.base = MemoryOperand::kNone;
    m.displacement = in.number(4);
  } else if (m.base == 4 || m.base == 5) {
    m.segment = SegmentName::Ss;
  }
  if (mod == 1) m.displacement = in.number(1);
  if (mod == 2) m.displacement = in.number(4);
}

bool plain_move(const Instruction& i) noexcept {
  return !i.two_byte && (i.opcode == 0x89 || i.opcode == 0x8B || i.opcode == 0xC7);
}
bool wants_modrm(const Instruction& i) noexcept {
  return plain_move(i) || (i.two_byte && (i.opcode == 0x01 || (i.opcode >= 0x20 && i.opcode <= 0x23)));
}

}  // namespace

Decoded decode(const std::uint8_t* bytes, unsigned n, unsigned code_bits, Instruction& out) noexcept {
  const bool long_code = code_bits == 64;
  Cursor in(bytes, n);
  Prefixes p;
  out = {};
  out.opcode = take_prefixes(in, long_code, p);
  if (out.opcode == 0x0F && !in.ran_out()) {
    out.two_byte = true;
    out.opcode = in.next();
  }
  out.lock = p.lock;
  out.repeat = p.repeat;
  if (long_code)
    out.operand_bits = (p.rex & 8) != 0 ? 64 : (p.operand ? 16 : 32);
  else
    out.operand_bits = (code_bits == 32) != p.operand ? 32 : 16;
  out.operand.address_bits =
      static_cast<std::uint8_t>(long_code ? (p.address ? 32 : 64) : ((code_bits == 32) != p.address ? 32 : 16));

  if (wants_modrm(out)) {
    out.has_modrm = true;
    out.modrm = in.next();
    const unsigned mod = out.modrm >> 6, rm = out.modrm & 7U;
    out.reg = static_cast<std::uint8_t>(((out.modrm >> 3) & 7U) | ((p.rex & 4U) << 1));
    out.rm = static_cast<std::uint8_t>(rm | ((p.rex & 1U) << 3));
    // MOV to and from control and debug registers ignores mod.
    if (mod != 3 && (out.opcode == 0x01 || plain_move(out))) {
      out.memory = true;
      if (out.operand.address_bits == 16)
        memory_16(in, mod, rm, out.operand);
      else
        memory_wide(in, mod, rm, p.rex, long_code, out.operand);
    }
  }
  if (plain_move(out) && out.opcode == 0xC7) out.immediate = in.number(out.operand_bits == 16 ? 2 : 4);
  if (p.has_segment) out.operand.segment = p.segment;
  if (in.ran_out()) return n >= kLongest ? Decoded::TooLong : Decoded::TooShort;
  out.length = in.at();
  return Decoded::Ok;
}

}  // namespace hv
