// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "shadowmmu/sim/world/action.hpp"
#include "shadowmmu/sim/world/subject.hpp"

/// Accesses of vCPUs, each from the hardware's first try to its end: entries into the guest, faults and their answers,
/// writes that somebody carries out for the guest. The model hears of everything first; what comes back goes to the
/// checker.
namespace shadowmmu::sim::world {

class Accesses {
 public:
  Accesses(Model& model, Checker& checker, Subject& subject, Agents* agents)
      : model_(model), check_(checker), machine_(model.machine), subject_(subject), agents_(agents) {}

  std::uint64_t accesses = 0;
  bool tells = false;              ///< keep the story
  std::vector<std::string> story;  ///< what happened, a line for each thing

 protected:
  using G = Guest<Machine>;
  enum class Answer { Again, Over };
  struct Store {
    const std::uint64_t* value;  ///< nullptr: what is there already
    unsigned bytes;
  };
  static constexpr Store kNothing{nullptr, 8};

  static std::string hex(std::uint64_t v) { return Checker::hex(v); }
  template <class F>
  void tell(F&& words) {
    if (tells) story.push_back(words());
  }
  [[nodiscard]] static std::string who(unsigned n) { return "vcpu " + std::to_string(n) + ": "; }
  [[nodiscard]] static std::string words_of(const Reach& x) {
    std::string s = x.request.user ? "user " : "supervisor ";
    s += x.request.write ? "write" : x.request.fetch ? "fetch" : "read";
    return s + (x.implicit ? ", implicit" : "") + (x.mode.ac ? " (AC set)" : "");
  }
  [[nodiscard]] std::string words_of(const G& g, unsigned level, std::uint64_t e) const {
    if ((e & 1) == 0) return "not present (" + hex(e) + ")";
    const bool leaf = level == 1 || ((e & 0x80) != 0 && level < 4);
    constexpr const char* kSizes[] = {"", "4 KiB page", "2 MiB page", "1 GiB page"};
    std::string s = leaf ? (g.width() == 4 && level == 2 ? "4 MiB page" : kSizes[level]) : "table";
    s += " -> gfn " + hex((e & frame_bits(g.mode)) >> 12) + ((e & 2) != 0 ? " W" : " R") + ((e & 4) != 0 ? " U" : " S");
    if (g.width() == 8 && e >> 63 != 0) s += " NX";
    return s + ((e & 0x20) != 0 ? " A" : "") + ((e & 0x40) != 0 ? " D" : "");
  }

  [[nodiscard]] bool ok() const { return check_.ok(); }
  /// Whether no other agent is in the middle of something.
  [[nodiscard]] bool alone() const {
    if (agents_ == nullptr) return true;
    unsigned busy = 0;
    for (unsigned a = 0; a < Agents::kAgents; ++a) busy += agents_->busy(a) ? 1U : 0U;
    return busy <= 1;
  }
  G& guest(unsigned n) { return model_.vcpu[n].guest; }

  /// Returns: an address that the guest plays with; one time in four that which it played with last, or which the other
  /// vCPU played with.
  [[nodiscard]] std::uint64_t some_address(unsigned n, std::uint64_t choice) {
    const G& g = guest(n);
    Last& last = last_[n];
    const Last& others = last_[(n + 1) % Model::kVcpus];
    if (choice >> 62 == 1 && others.mode == g.mode && others.known) return (last = others).address;
    if (choice >> 62 == 0 && last.mode == g.mode && last.known) return last.address;
    last = {true, g.mode, fresh_address(g, choice)};
    return last.address;
  }

  /// Effects: the vCPU is in the guest. Returns: false where that went wrong.
  bool enter(unsigned n) {
    Machine::Hardware& h = machine_.vcpu(n);
    if (h.inside) return true;
    for (int i = 0;; ++i) {
      HwState hw;
      const std::uint64_t kicks = h.kicks;
      const std::uint64_t failures = machine_.failures;
      const EnterOutcome e = subject_.enter(n, hw);
      if (!ok()) return false;
      if (e == EnterOutcome::Enter && h.kicks == kicks) {
        // A CPU in long mode takes no 32-bit guest's addresses, and the other way round.
        if (!model_.second_level() && ((hw.efer & efer::kLma) != 0) != (guest(n).mode == Mode::Long4))
          check_.fail("the hardware state has another EFER.LMA than the guest");
        if (!machine_.run(n, hw)) check_.fail("the CPU refuses the hardware state");
        break;
      }
      if (e == EnterOutcome::OutOfMemory) {
        if (!starved(failures) || i > 64) check_.fail("enter() failed without a reason");
      } else if (!alone()) {
        Agents::wait();
        i = 0;
      } else if (i > 8) {
        check_.fail("the vCPU cannot enter, and nobody holds it out");
      }
      if (!ok()) return false;
    }
    if (alone() && !stepping_[n] && checked_[n] != model_.version) {
      checked_[n] = model_.version;
      check_.check_owed(n);
    }
    return ok();
  }
  /// Returns: whether an allocation failed since there had been `before` failures, or one that nobody has accounted
  /// for.
  bool starved(std::uint64_t before) {
    const bool yes = machine_.failures != before || machine_.failures != seen_failures_ || !alone();
    seen_failures_ = machine_.failures;
    return yes;
  }

  /// One access, retried as hardware would. Returns: whether it was carried out.
  bool access(unsigned n, std::uint64_t a, const Reach& wanted, Store store = kNothing) {
    const Reach x = asked(wanted);
    accesses += 1;
    bool stepping = false, done = false;
    int rounds = 0;
    for (int tries = 0; tries < kTries && ok(); ++tries) {
      if (!enter(n)) break;
      const AccessResult got = machine_.vcpu(n).cpu.access(a, x.request, x.mode, x.implicit);
      if (got.kind == AccessKind::Bus) {
        check_.fail("hardware walked a frame that is no table");
      } else if (got.ok()) {
        check_.succeeded(n, a, x, got, alone());
        if (agents_ != nullptr) tell([&] { return "  (" + who(n) + "access at " + hex(a) + " is made)"; });
        touched(n, a);  // what is stored may be the entry that led here
        if (accesses % 4 == 0 && alone() && !x.implicit && subject_.translates()) check_reader(n, a, x);
        if (store.value != nullptr && ok()) {
          const Gpa at{machine_.gfn_at(got.hpa) << 12 | (a & kPageMask)};
          model_.changing(at, store.bytes, true,
                          [&] { static_cast<void>(machine_.write(at, store.bytes, *store.value)); });
          check_.memory_changed();
        }
        done = true;
      } else {
        const Answer answer = answer_fault(n, a, x, got, store, stepping, done);
        if (tries + 1 == kTries && ++rounds < kRounds && let_others_end()) tries = 0;
        if (answer == Answer::Again) continue;
      }
      if (stepping) end_step(n);
      return done;
    }
    check_.fail("an access made no progress");
    return false;
  }
  /// An access was made: another thread that asks for its translation finds what the guest's tables say.
  void check_reader(unsigned n, std::uint64_t a, const Reach& x) {
    const OracleVerdict now = guest(n).oracle(a, x.request, x.mode);
    if (now.fault || !now.updates.empty() || !model_.memory(now.gpa.value() >> 12)) return;
    Gpa to{};
    if (!subject_.translate(n, a, x.request, x.mode, to))
      return check_.fail("a reader finds a fault where there is none");
    if (to != now.gpa) check_.fail("a reader finds gpa " + hex(to.value()) + " instead of " + hex(now.gpa.value()));
  }
  /// The others may be in this agent's way. Effects: where they are in the middle of something, they go on with it.
  /// Returns: whether they were.
  bool let_others_end() {
    if (alone()) return false;
    Agents::wait();
    return true;
  }
  void end_step(unsigned n) {
    subject_.step_ends(n);
    stepping_[n] = false;
  }
  void touched(unsigned n, std::uint64_t a) {
    auto& pages = model_.vcpu[n].touched;
    // Without paging nothing goes out of date, so that a page can be forgotten.
    if (guest(n).mode == Mode::Flat && pages.size() > 40) pages.clear();
    pages.insert(a >> 12);
  }
  Answer answer_fault(unsigned n, std::uint64_t a, const Reach& x, const AccessResult& got, Store store, bool& stepping,
                      bool& done) {
    using Kind = FaultOutcome::Kind;
    std::uint32_t code = got.error_code;
    if (model_.second_level())
      code = x.request.error_bits() | (got.kind == AccessKind::EptMisconfig ? pferr::kReserved : 0U);
    machine_.vcpu(n).inside = false;
    check_.fault_begins(n, a, x);
    if (agents_ != nullptr)
      tell([&] {
        return "  (" + who(n) + "fault of a " + words_of(x) + " at " + hex(a) + " begins, error code " + hex(code) +
               ")";
      });
    const std::uint64_t failures = machine_.failures;
    const FaultOutcome o = subject_.fault(n, a, code, x.mode);
    if (agents_ != nullptr)
      tell([&] {
        return "  (" + who(n) + "fault at " + hex(a) + " ends: " + std::to_string(static_cast<int>(o.kind)) + ")";
      });
    const Answer answer = [&] {
      switch (o.kind) {
        case Kind::Resume:
        case Kind::Retry:
          check_.resumed(n);
          if (o.kind == Kind::Retry && !alone()) Agents::wait();
          return Answer::Again;
        case Kind::InjectPageFault:
          check_.injected(n, o);
          return Answer::Over;
        case Kind::Mmio:
          check_.answered_mmio(n, o);
          return Answer::Over;
        case Kind::Emulate:
          check_.answered_emulate(n, o);
          // An emulator knows that an access is implicit, and looks at SMAP itself.
          return x.implicit ? Answer::Over : emulate(n, o, store, stepping, done);
        case Kind::OutOfMemory:
          if (!starved(failures)) check_.fail("out of memory without a failed allocation");
          return Answer::Again;
        default:
          check_.fail("an outcome that cannot be");
          return Answer::Over;
      }
    }();
    check_.fault_ends(n);
    return answer;
  }
  Answer emulate(unsigned n, const FaultOutcome& o, Store store, bool& stepping, bool& done) {
    if (!ok()) return Answer::Over;
    if (subject_.steps_writes()) {
      const std::uint64_t failures = machine_.failures;
      const Status s = subject_.step_begins(n, o);
      if (s.ok())
        stepping = stepping_[n] = true;
      else if ((s.error() == Error::WindowBusy && !alone()) ||
               (s.error() == Error::NotBacked && check_.slot_changed(n, frame_of(o.gpa).value())))
        Agents::wait();
      else if (s.error() != Error::OutOfMemory)
        check_.fail("a write window was refused");
      else if (!starved(failures))
        check_.fail("out of memory without a failed allocation");
      return Answer::Again;
    }
    const Gpa at = store.bytes == 8 ? Gpa{o.gpa.value() & ~7ULL} : o.gpa;
    std::uint64_t value = 0;
    static_cast<void>(machine_.read(at, store.bytes, value));
    touched(n, o.address);
    write_and_tell(at, store.bytes, store.value != nullptr ? *store.value : value);
    done = true;
    return Answer::Over;
  }
  /// Effects: guest memory is written in place of the MMU's mappings, and the MMU told.
  void write_and_tell(Gpa at, unsigned bytes, std::uint64_t value) {
    // While the MMU is told, others may act: until then it cannot know.
    const bool apart = agents_ != nullptr;
    const unsigned writing = model_.write_begins(frame_of(at).value());
    model_.changing(at, bytes, !apart, [&] { static_cast<void>(machine_.write(at, bytes, value)); });
    check_.memory_changed();
    subject_.guest_wrote(at, bytes);
    model_.told(at, bytes);
    model_.write_ends(writing);
  }

  /// Returns: the access as this MMU is asked for it. Only some can tell an implicit access that nothing reports.
  [[nodiscard]] Reach asked(Reach x) const {
    if (x.implicit && x.mode.cpl != 3 && x.mode.ac && !subject_.explains_implicit()) x.implicit = false;
    return x;
  }

  static constexpr int kTries = 64;   ///< of one access, unless another agent may be in the way
  static constexpr int kRounds = 32;  ///< of so many tries, in which others may have been in the way

  Model& model_;
  Checker& check_;
  Machine& machine_;
  Subject& subject_;
  Agents* agents_;

 private:
  struct Last {
    bool known = false;
    Mode mode = Mode::Flat;
    std::uint64_t address = 0;
  };
  [[nodiscard]] std::uint64_t fresh_address(const G& g, std::uint64_t choice) {
    const std::uint64_t x = choice >> 8;
    if (model_.second_level() || g.mode == Mode::Flat) {
      // At both ends of large pages, too.
      if (choice % 8 == 0) return (GuestMap::kBig + x % 4 * 512 + (x / 4 % 4 * 511 + x / 16 % 2) % 512) << 12;
      if (choice % 8 == 1 && model_.second_level()) return (GuestMap::kHigh + x % 70) << 12;
      if (choice % 8 == 2)
        return (model_.layout().some_frame(choice >> 4) & (model_.second_level() ? ~0ULL : 0xfffffULL)) << 12;
      // The ends of what one word of a log is about.
      if (choice % 8 == 4 && model_.second_level()) {
        const Model::Slot& s = model_.slots[x % 3];
        if (s.pages > 512) return (s.first + x / 4 % 8 * 64 + (x / 32 % 2) * 63) << 12;
        return (s.first + (x / 4 % 2 == 0 ? s.pages - 1 : std::min<std::uint64_t>(s.pages - 1, 63))) << 12;
      }
      // The last frame of a region and the first of the next.
      if (choice % 8 == 3) return (512 + x % 4 / 2 * 512 - 1 + x % 2) << 12;
      return (choice % 16 < 8 ? x % 2060 : model_.layout().data() + x % 60) << 12;
    }
    const auto& v = model_.universe(g.mode);
    if (choice % 8 == 0) return G::kLinear + (x % 2060 << 12);
    return v[x % v.size()];
  }

  Last last_[Model::kVcpus];
  std::uint64_t seen_failures_ = 0;
  std::uint64_t checked_[Model::kVcpus] = {};
  bool stepping_[Model::kVcpus] = {};  ///< the vCPU carries out one instruction that writes what others must not
};

}  // namespace shadowmmu::sim::world
