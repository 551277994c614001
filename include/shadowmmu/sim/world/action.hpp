// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <array>
#include <cstdint>
#include <variant>
#include <vector>

#include "shadowmmu/sim/world/checker.hpp"
#include "shadowmmu/sim/world/guest.hpp"

/// What guests, devices and hosts do to an MMU. A number in an action is a choice among what there is when it runs, so
/// that any part of a sequence is a sequence too and failures can be shrunk.
namespace shadowmmu::sim::world {

/// Accesses to one page, one after the other: what one leaves behind must not serve another.
struct Touch {
  std::uint64_t place = 0, offset = 0;
  std::array<Reach, 4> reach{};
  unsigned times = 1;
};
/// Reads of pages that follow each other.
struct Sweep {
  std::uint64_t place = 0;
  unsigned pages = 1;
  Reach reach{};
};
/// One instruction: all its accesses must succeed without a fault between them, sooner or later.
struct Instruction {
  std::array<std::uint64_t, 8> place{};
  std::array<Reach, 8> reach{};
  unsigned addresses = 2;
  bool near = false;  ///< all at the first place or right behind it
};

/// What an edit makes of a guest entry.
enum class Change : std::uint8_t {
  FlipPresent,
  FlipWrite,
  FlipUser,
  FlipNoExec,
  ClearAccessed,
  ClearDirty,
  ClearBoth,
  OtherFrame,
  AnyTable,  ///< a frame in which tables lie, whatever their level
  FlipLarge,
  Replace,  ///< nothing, or a fresh leaf without A and D
  FlipHighBit,
  AllRights,
  NoAccess,   ///< no rights but to be read by the supervisor
  Sibling,    ///< what another entry of the same table holds: tables come to be shared
  LargePage,  ///< a large page in place of whatever was there
  Count
};
/// Who writes the entry, and when the MMU hears of it.
enum class By : std::uint8_t {
  Store,       ///< the guest's CPU, through its linear map
  Device,      ///< a device; the MMU is told at once
  DeviceLate,  ///< a device; the MMU is told when some TellAll says so, perhaps never
};
/// What the guest does after it has written an entry.
enum class Then : std::uint8_t {
  Forgets,
  LoadsCr3,
  Flushes,
  SwitchesPcid,  ///< the same root under the next PCID, bit 63 set: what that has cached stays
};
struct EditEntry {
  std::uint64_t place = 0;
  bool upper = false;  ///< any entry of the path rather than the last
  std::uint64_t depth = 0;
  Change change = Change::FlipPresent;
  std::uint64_t value = 0;
  By by = By::Store;
  Then then = Then::Forgets;
  bool before = false;  ///< uses the page before that
  bool uses = false;    ///< and after it; of what an upper entry leads to, several
  Reach reach{};
};
/// The entry that was edited last, whoever did it, becomes what it was before.
struct UndoEdit {
  By by = By::Store;
  Then then = Then::Forgets;
  bool uses = false;
  Reach reach{};
};
/// A device writes bytes of a table: any width, any alignment.
struct DeviceWrite {
  std::uint64_t table = 0, offset = 0, flip = 0;
  unsigned bytes = 8;
  bool in_use = false;  ///< over the begin of an entry in use and the end of the one before
};
struct TellAll {};

struct LoadCr3 {
  std::uint64_t root = 0;
  bool same = false;  ///< the value that is loaded already
  unsigned pcid = 0;
  bool keep = false;       ///< bit 63
  std::uint64_t bits = 0;  ///< among those of CR3 that name nothing, or must be clear
  unsigned times = 1;
};
enum class Bit : std::uint8_t { Wp, Smep, Smap, Pge, Nxe, Pse, Cd, Pcide, Count };
struct Toggle {
  Bit bit = Bit::Wp;
  bool flushes = true;
  bool uses = false;  ///< some page, before that and after it
  std::uint64_t place = 0;
  Reach reach{};
};
struct SwitchMode {
  Mode mode = Mode::Flat;
  std::uint64_t root = 0;
};
struct Invlpg {
  std::uint64_t place = 0;
};
struct FlushAll {};

/// The host moves frames; shares them until they are written; makes them read-only, or writable again.
struct MoveFrames {
  std::uint64_t gfn = 0, pages = 1, where = 0;
  std::uint64_t also = 0;  ///< others that move meanwhile; 0: none
};
/// The host makes 2 MiB that it had taken apart one page again, where it can.
struct MakeWhole {
  std::uint64_t gfn = 0;
};
struct ShareFrames {
  std::uint64_t gfn = 0, pages = 1;
};
struct MakeRom {
  std::uint64_t gfn = 0;
  bool on = false;
};
/// A slot goes and comes back; is moved away and back; loses pages at either end and gets them again; changes its
/// flags: at once or later. Nothing may remember what it was.
struct ChangeSlot {
  enum class How : std::uint8_t { Remove, Move, Resize, Flags };
  std::uint64_t slot = 0;
  How how = How::Remove;
  bool stays_away = false;
  bool at_begin = false;  ///< which end it loses
};
/// A slot's log starts, is fetched (each page written since must be in it), or stops.
struct UseLog {
  std::uint64_t slot = 0;
  bool stop = false;
  std::uint64_t choice = 0;
};
/// Something of the MMU's own that no guest may notice.
struct Upkeep {
  std::uint64_t choice = 0, amount = 0;
};
struct Starve {
  std::uint64_t after = 1;  ///< the allocation from now on that fails
};

using Deed =
    std::variant<Touch, Sweep, Instruction, EditEntry, UndoEdit, DeviceWrite, TellAll, LoadCr3, Toggle, SwitchMode,
                 Invlpg, FlushAll, MoveFrames, MakeWhole, ShareFrames, MakeRom, ChangeSlot, UseLog, Upkeep, Starve>;

struct Action {
  unsigned vcpu = 0;         ///< which vCPU does it, where a vCPU does
  bool exits = false;        ///< something made that vCPU exit before
  std::uint64_t pauses = 0;  ///< where it hands over to others (agents.hpp)
  Deed deed{};
};
using Actions = std::vector<Action>;

}  // namespace shadowmmu::sim::world
