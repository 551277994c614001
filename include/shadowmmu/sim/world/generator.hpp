// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/sim/random.hpp"
#include "shadowmmu/sim/world/action.hpp"

namespace shadowmmu::sim::world {

/// Draws actions from a seed. The mix is what docs/TESTING.md states.
class Generator {
 public:
  explicit Generator(std::uint64_t seed, bool second_level, bool interleaved)
      : rng_(seed), second_level_(second_level), interleaved_(interleaved) {}

  [[nodiscard]] Actions draw(unsigned length) {
    Actions all;
    for (unsigned i = 0; i < length; ++i) {
      Action a;
      a.vcpu = static_cast<unsigned>(rng_.below(Model::kVcpus));
      a.exits = rng_.chance(3, 4);
      if (interleaved_) a.pauses = rng_.next() & rng_.next() & rng_.next();
      a.deed = deed();
      all.push_back(a);
    }
    return all;
  }

 private:
  [[nodiscard]] Reach reach() {
    Reach x;
    const std::uint64_t b = rng_.next();
    x.request = {(b & 1) != 0, (b & 3) == 2, (b & 4) != 0};
    x.mode = {static_cast<std::uint8_t>(x.request.user ? 3 : 0), (b & 8) != 0};
    if (!x.request.user && !x.request.fetch && (b >> 8 & 15) == 0) {
      x.implicit = true;
      if ((b & 16) != 0) x.mode.cpl = 3;
    }
    return x;
  }
  [[nodiscard]] Touch touch() {
    Touch t;
    t.place = rng_.next();
    t.offset = rng_.below(512) * 8;
    t.times = 1 + static_cast<unsigned>(rng_.below(4));
    for (Reach& x : t.reach) x = reach();
    return t;
  }
  [[nodiscard]] EditEntry edit() {
    EditEntry e;
    e.place = rng_.next();
    e.upper = rng_.chance(1, 3);
    e.depth = rng_.next();
    // To take away and to bring back is what guests do most.
    const std::uint64_t often = rng_.below(16);
    e.change = often < 2   ? Change::FlipPresent
               : often < 3 ? Change::FlipLarge
                           : static_cast<Change>(rng_.below(static_cast<std::uint64_t>(Change::Count)));
    e.value = rng_.next();
    e.by = by();
    e.then = then();
    e.before = rng_.chance(1, 3);
    e.uses = rng_.chance(2, 3);
    e.reach = reach();
    return e;
  }
  [[nodiscard]] By by() {
    const std::uint64_t b = rng_.below(8);
    return b < 4 ? By::Store : b < 6 ? By::Device : By::DeviceLate;
  }
  [[nodiscard]] Then then() {
    const std::uint64_t b = rng_.below(16);
    return b < 6 ? Then::Forgets : b < 8 ? Then::LoadsCr3 : b < 10 ? Then::SwitchesPcid : Then::Flushes;
  }
  [[nodiscard]] LoadCr3 load() {
    LoadCr3 l{rng_.next(), rng_.chance(1, 3), static_cast<unsigned>(rng_.below(3)), rng_.flip()};
    l.bits = rng_.chance(1, 4) ? rng_.next() : 0;
    // Often enough to come round among the places that an MMU may keep for what it loads.
    l.times = rng_.chance(1, 12) ? 160 : 1;
    return l;
  }
  [[nodiscard]] ChangeSlot slot() {
    return {rng_.next(), static_cast<ChangeSlot::How>(rng_.below(4)), rng_.flip(), rng_.flip()};
  }
  [[nodiscard]] Deed deed() {
    const std::uint64_t kind = rng_.below(160);
    if (kind < 31) return touch();
    if (kind < 32) return Sweep{rng_.next(), 8U << rng_.below(4), reach()};
    if (second_level_ && (kind < 90 || kind >= 156)) return touch();
    if (kind < 54) return edit();
    if (kind < 60) return load();
    if (kind < 70) {
      // WP most often: it flushes nothing.
      const bool wp = rng_.chance(1, 3);
      const Bit bit = wp ? Bit::Wp : static_cast<Bit>(rng_.below(static_cast<std::uint64_t>(Bit::Count)));
      return Toggle{bit, rng_.flip(), rng_.flip(), rng_.next(), reach()};
    }
    if (kind < 78) return Invlpg{rng_.next()};
    if (kind < 79) return FlushAll{};
    if (kind < 81) return SwitchMode{static_cast<Mode>(rng_.below(4)), rng_.next()};
    if (kind < 88)
      return DeviceWrite{rng_.next(), rng_.below(4096), rng_.next() & 0x67, 1U << rng_.below(4), rng_.flip()};
    if (kind < 90) return TellAll{};
    if (kind < 91) return MakeWhole{rng_.next()};
    if (kind < 98) return MoveFrames{rng_.next(), 1 + rng_.below(3), rng_.next(), rng_.chance(1, 3) ? rng_.next() : 0};
    if (kind < 100) return ShareFrames{rng_.next(), 1 + rng_.below(4)};
    if (kind < 102) return MakeRom{rng_.next(), rng_.flip()};
    if (kind < 105) return slot();
    if (kind < 114) return UseLog{rng_.next(), rng_.chance(1, 4), rng_.next()};
    if (kind < 130) return Upkeep{rng_.next(), rng_.next()};
    if (kind < 134) return Starve{1 + rng_.below(24)};
    if (kind >= 158) return TellAll{};
    if (kind >= 156) return SwitchMode{static_cast<Mode>(rng_.below(4)), rng_.next()};
    if (kind >= 152) return slot();
    if (kind >= 140) {
      if (!second_level_) return UndoEdit{by(), then(), rng_.flip(), reach()};
      return kind < 146 ? Deed{MoveFrames{rng_.next(), 1 + rng_.below(3), rng_.next(), rng_.next()}} : Deed{touch()};
    }
    Instruction i;
    for (std::uint64_t& p : i.place) p = rng_.next();
    for (Reach& x : i.reach) x = reach();
    i.addresses = 2 + static_cast<unsigned>(rng_.below(rng_.flip() ? 3 : 7));
    i.near = rng_.flip();
    return i;
  }

  Random rng_;
  bool second_level_, interleaved_;
};

}  // namespace shadowmmu::sim::world
