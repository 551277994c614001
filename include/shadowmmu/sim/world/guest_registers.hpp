// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <string>

#include "shadowmmu/sim/world/accesses.hpp"

/// What guests do with their registers: load CR3, toggle bits of control registers, switch between paging modes, flush.
namespace shadowmmu::sim::world {

class GuestRegisters : public Accesses {
 public:
  using Accesses::Accesses;

  void act(unsigned n, const LoadCr3& l) {
    const G& g = guest(n);
    if (model_.second_level() || g.mode == Mode::Flat) return;
    std::uint64_t value = l.same ? g.cr3 : g.roots[static_cast<unsigned>(g.mode)][l.root % G::kRoots];
    const bool pcide = (g.controls.cr4 & cr4::kPcide) != 0;
    if (!l.same) value |= pcide ? l.pcid : l.bits & 0x18;
    // One in four of those that may be wrong is.
    if (g.mode == Mode::Long4 && l.bits != 0 && (l.bits >> 8) % 4 == 0)
      value |= std::uint64_t{1} << (G::kMaxPhys + l.bits % (63 - G::kMaxPhys));
    if (pcide && l.keep) value |= std::uint64_t{1} << 63;
    for (unsigned i = 0; i < l.times && ok(); ++i) {
      load_cr3(n, value);
      if (l.times > 1 && !enter(n)) return;
    }
  }
  void act(unsigned n, const Toggle& t) {
    if (model_.second_level()) return;
    const std::uint64_t used = some_address(n, t.place);
    if (t.uses) {
      use(n, used, t.reach);
      if (!ok()) return;
    }
    Controls k = guest(n).controls;
    Bit bit = t.bit;
    if (bit == Bit::Pcide && (!subject_.has_pcid() || guest(n).mode != Mode::Long4)) bit = Bit::Wp;
    switch (bit) {
      case Bit::Wp:
        k.cr0 ^= cr0::kWp;
        break;
      case Bit::Smep:
        k.cr4 ^= cr4::kSmep;
        break;
      case Bit::Smap:
        k.cr4 ^= cr4::kSmap;
        break;
      case Bit::Pge:
        k.cr4 ^= cr4::kPge;
        break;
      case Bit::Nxe:
        k.efer ^= efer::kNxe;
        break;
      case Bit::Cd:
        k.cr0 ^= kCd;
        break;
      case Bit::Pcide:
        k.cr4 ^= cr4::kPcide;
        break;
      default:
        k.cr4 ^= cr4::kPse;
        break;
    }
    tell([&] {
      constexpr const char* kNames[] = {"CR0.WP",   "CR4.SMEP", "CR4.SMAP", "CR4.PGE",
                                        "EFER.NXE", "CR4.PSE",  "CR0.CD",   "CR4.PCIDE"};
      const Controls& was = guest(n).controls;
      return who(n) + "toggles " + kNames[static_cast<unsigned>(bit)] + " (CR0 " + hex(was.cr0) + " -> " + hex(k.cr0) +
             ", CR4 " + hex(was.cr4) + " -> " + hex(k.cr4) + ", EFER " + hex(was.efer) + " -> " + hex(k.efer) + ")";
    });
    apply(n, k, guest(n).mode);
    if (!ok()) return;
    // What was cached under the other NXE or PSE means another thing now; a guest that does not flush may find either.
    if (bit == Bit::Nxe || bit == Bit::Pse) {
      if (t.flushes)
        flush(n);
      else
        model_.doubt_everything(n);
    }
    if (t.uses && ok()) use(n, used, t.reach);
  }
  void act(unsigned n, const SwitchMode& w) {
    if (!model_.second_level()) switch_mode(n, w);
  }
  void act(unsigned n, const Invlpg& i) {
    if (!model_.second_level()) invlpg(n, some_address(n, i.place));
  }
  void act(unsigned n, const FlushAll&) {
    if (!model_.second_level()) flush(n);
  }

 protected:
  void use(unsigned n, std::uint64_t a, const Reach& x) {
    tell([&] { return who(n) + words_of(x) + " at " + hex(a); });
    // Never store rubbish over a table by chance: accesses only touch; edits do the writing.
    access(n, a, x);
  }
  void switch_mode(unsigned n, const SwitchMode& w) {
    tell([&] { return who(n) + "switches to " + name_of(w.mode) + ", root " + std::to_string(w.root % G::kRoots); });
    G& g = guest(n);
    Controls k = g.controls;
    if ((k.cr4 & cr4::kPcide) != 0) {
      k.cr4 &= ~cr4::kPcide;
      apply(n, k, g.mode);
    }
    k.cr0 = (k.cr0 | cr0::kPe) & ~cr0::kPg;
    k.efer &= ~(efer::kLma | efer::kLme);
    apply(n, k, Mode::Flat);
    if (w.mode == Mode::Flat || !ok()) return;
    k.cr4 = w.mode == Mode::Bits32 ? k.cr4 & ~cr4::kPae : k.cr4 | cr4::kPae;
    apply(n, k, Mode::Flat);
    load_cr3(n, g.roots[static_cast<unsigned>(w.mode)][w.root % G::kRoots]);
    k.cr0 |= cr0::kPg;
    if (w.mode == Mode::Long4) k.efer |= efer::kLme | efer::kLma;
    apply(n, k, w.mode);
    if (ok() && w.mode == Mode::Long4 && pcids_) act(n, Toggle{Bit::Pcide, true});
  }
  void load_cr3(unsigned n, std::uint64_t value) {
    tell([&] { return who(n) + "MOV to CR3: " + hex(value); });
    Model::Vcpu& c = model_.vcpu[n];
    G& g = c.guest;
    const bool pcide = (g.controls.cr4 & cr4::kPcide) != 0;
    const bool keep = pcide && value >> 63 != 0;
    const std::uint64_t root = pcide ? value & ~(std::uint64_t{1} << 63) : value;
    const auto fresh = Oracle<Machine>::read_pdptes(machine_, root);
    const bool legal = g.mode == Mode::Pae     ? Oracle<Machine>::pdptes_loadable(fresh, G::kMaxPhys)
                       : g.mode == Mode::Long4 ? root >> G::kMaxPhys == 0
                                               : true;
    if (legal) {
      model_.use_space(n, pcide ? static_cast<unsigned>(root & 0xfff) : 0, root, keep);
      g.cr3 = root;
      if (g.mode == Mode::Pae) g.pdptes = fresh;
    }
    const ControlOutcome o = left(n).set_cr3(n, value);
    if ((o == ControlOutcome::Done) != legal)
      check_.fail(legal ? "MOV to CR3 was refused" : "MOV to CR3 must be refused");
  }
  /// The vCPU, out of the guest: its next access comes after enter().
  Subject& left(unsigned n) {
    machine_.vcpu(n).inside = false;
    return subject_;
  }

  void apply(unsigned n, const Controls& k, Mode mode) {
    Model::Vcpu& c = model_.vcpu[n];
    G& g = c.guest;
    const bool mode_changes = mode != g.mode;
    const std::uint64_t cr0_changes = k.cr0 ^ g.controls.cr0, cr4_changes = k.cr4 ^ g.controls.cr4;
    // SDM 4.10.4.1: what flushes; 4.4.1: what reloads the PDPTE registers.
    const bool flushes = mode_changes || (cr4_changes & cr4::kPge) != 0 ||
                         ((cr4_changes & cr4::kPcide) != 0 && (k.cr4 & cr4::kPcide) == 0);
    const bool reloads = mode == Mode::Pae && (mode_changes || (cr0_changes & (kCd | kNw)) != 0 ||
                                               (cr4_changes & (cr4::kPae | cr4::kPge | cr4::kPse | cr4::kSmep)) != 0);
    const auto fresh = Oracle<Machine>::read_pdptes(machine_, g.cr3);
    const bool pcide_refused = (cr4_changes & k.cr4 & cr4::kPcide) != 0 && (g.cr3 & 0xfff) != 0;
    const bool legal = !pcide_refused && (!reloads || Oracle<Machine>::pdptes_loadable(fresh, G::kMaxPhys));
    if (legal) {
      const bool new_pdptes = reloads && fresh != g.pdptes;
      if (reloads) g.pdptes = fresh;
      g.controls = k;
      g.mode = mode;
      if (mode_changes) c.touched.clear();
      if (flushes)
        model_.forget_all(n);
      else if ((cr4_changes & k.cr4 & cr4::kSmep) != 0)
        model_.forget_space(n);
      else if (new_pdptes)
        model_.doubt_everything(n);
      if (flushes && (k.cr4 & cr4::kPcide) == 0) model_.one_space(n);
      model_.version += 1;
    }
    const ControlOutcome o = left(n).set_control(n, k);
    if ((o == ControlOutcome::Done) != legal)
      check_.fail(legal ? "a control write was refused" : "a control write must be refused");
  }
  void invlpg(unsigned n, std::uint64_t a) {
    tell([&] { return who(n) + "INVLPG " + hex(a); });
    model_.forget(n, a);
    left(n).invlpg(n, Gva{a});
  }
  void flush(unsigned n) {
    tell([&] { return who(n) + "flushes its TLB"; });
    model_.forget_all(n);
    left(n).flush(n);
  }

  bool pcids_ = false;  ///< the guest uses PCIDs wherever it can

 private:
  static constexpr std::uint64_t kCd = 1U << 30, kNw = 1U << 29;
};

}  // namespace shadowmmu::sim::world
