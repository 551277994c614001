// SPDX-License-Identifier: BSL-1.0
#include "reclaim/trace.hpp"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <utility>

namespace shadowmmu::bench {
namespace {

constexpr std::string_view kZst = ".zst";
constexpr std::string_view kPart = ".part";
constexpr int kWindowLog = 27;
constexpr int kLevel = 19;
constexpr std::size_t kChunk = std::size_t{1} << 20;
/// What a file's own claim of its size may reserve ahead: a frame header can claim anything.
constexpr std::uint64_t kMaxReserve = std::uint64_t{1} << 24;

struct Closer {
  void operator()(std::FILE* file) const noexcept { static_cast<void>(std::fclose(file)); }
  void operator()(ZSTD_DCtx* context) const noexcept { ZSTD_freeDCtx(context); }
  void operator()(ZSTD_CCtx* context) const noexcept { ZSTD_freeCCtx(context); }
};
using File = std::unique_ptr<std::FILE, Closer>;

std::string system_reason(const char* what) { return std::string(what) + ": " + std::strerror(errno); }

/// The bytes of a file, decompressed where its name says so.
class Source {
 public:
  /// `record` is how far the reader came: for the errors found in here.
  Source(const std::string& path, const std::uint64_t& record)
      : path_(path), record_(record), file_(std::fopen(path.c_str(), "rb")) {
    if (!file_) fail(system_reason("cannot be opened"));
    if (!path.ends_with(kZst)) return;
    zstd_.reset(ZSTD_createDCtx());
    if (!zstd_ || ZSTD_isError(ZSTD_DCtx_setParameter(zstd_.get(), ZSTD_d_windowLogMax, kWindowLog)) != 0) {
      fail("no memory to decompress");
    }
    packed_.resize(ZSTD_DStreamInSize());
  }
  [[noreturn]] void fail(const std::string& reason) const { throw TraceError(path_, record_ + 1, reason); }

  /// Returns: how much of `to` was filled; less than all of it only at the end or before an error, which check()
  /// throws: so that the records before it are counted first.
  std::size_t read(std::span<char> to) {
    std::size_t done = 0;
    while (done < to.size() && error_.empty()) {
      const std::size_t more = zstd_ ? unpack(to.subspan(done)) : raw(to.subspan(done));
      if (more == 0) break;
      done += more;
    }
    return done;
  }
  void check() const {
    if (!error_.empty()) fail(error_);
  }
  /// Returns: how many bytes will probably come, 0 if that is unknown.
  [[nodiscard]] std::uint64_t size_hint() {
    if (zstd_) {
      if (input_.pos == input_.size) refill();
      const unsigned long long size = ZSTD_getFrameContentSize(packed_.data(), input_.size);
      return size >= ZSTD_CONTENTSIZE_ERROR ? 0 : size;
    }
    if (std::fseek(file_.get(), 0, SEEK_END) != 0) return 0;  // a pipe
    const long size = std::ftell(file_.get());
    std::rewind(file_.get());
    return size < 0 ? 0 : static_cast<std::uint64_t>(size);
  }

 private:
  std::size_t raw(std::span<char> to) {
    const std::size_t n = std::fread(to.data(), 1, to.size(), file_.get());
    if (n == 0 && std::ferror(file_.get()) != 0) error_ = system_reason("cannot be read");
    return n;
  }
  void refill() { input_ = {packed_.data(), raw(packed_), 0}; }
  std::size_t unpack(std::span<char> to) {
    ZSTD_outBuffer out{to.data(), to.size(), 0};
    while (out.pos == 0) {
      if (input_.pos == input_.size) refill();
      // Without input there may still be output that did not fit before.
      const bool dry = input_.size == 0;
      const std::size_t before = input_.pos;
      const std::size_t left = ZSTD_decompressStream(zstd_.get(), &out, &input_);
      if (ZSTD_isError(left) != 0) {
        error_ = std::string("bad compressed data: ") + ZSTD_getErrorName(left);
        break;
      }
      if (input_.pos != before || out.pos != 0) open_frame_ = left != 0;
      if (dry && out.pos == 0) {
        if (open_frame_ && error_.empty()) error_ = "the compressed data ends early";
        break;
      }
    }
    return out.pos;
  }

  std::string path_;
  const std::uint64_t& record_;
  File file_;
  std::unique_ptr<ZSTD_DCtx, Closer> zstd_;
  std::vector<char> packed_;
  ZSTD_inBuffer input_{nullptr, 0, 0};
  bool open_frame_ = false;
  std::string error_;
};

template <class T>
T little(const char* bytes) noexcept {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  if constexpr (std::endian::native == std::endian::big) {
    auto* b = reinterpret_cast<char*>(&value);
    std::reverse(b, b + sizeof value);
  }
  return value;
}

/// One load. `seen` counts what was read of the file, records or lines; the trace may hold more, after a straddle.
class Loader {
 public:
  Loader(const std::string& path, std::uint64_t limit) : limit_(limit), source_(path, seen_) {}

  std::vector<Record> native() {
    reserve(sizeof(Record));
    each_chunk<sizeof(Record)>([&](const char* bytes, std::size_t count) {
      const std::size_t from = records_.size();
      records_.resize(from + count);
      std::uint64_t any = 0;
      if constexpr (std::endian::native == std::endian::little) {
        std::memcpy(records_.data() + from, bytes, count * sizeof(Record));
      } else {
        for (std::size_t i = 0; i < count; ++i) records_[from + i].word = little<std::uint64_t>(bytes + i * 8);
      }
      for (std::size_t i = from; i < from + count; ++i) any |= records_[i].word;
      if ((any & Record::kReserved) == 0) return;
      const auto bad = std::find_if(records_.begin() + static_cast<std::ptrdiff_t>(from), records_.end(),
                                    [](Record r) { return (r.word & Record::kReserved) != 0; });
      seen_ = static_cast<std::uint64_t>(bad - records_.begin());
      source_.fail("bits 54 to 62 are reserved, the record is 0x" + hex(bad->word));
    });
    return std::move(records_);
  }

  std::vector<Record> oracle_general() {
    constexpr std::size_t kSize = 24;  // uint32 time, uint64 id, uint32 size, int64 next, packed
    reserve(kSize);
    each_chunk<kSize>([&](const char* bytes, std::size_t count) {
      const std::uint64_t first = seen_;
      for (std::size_t i = 0; i < count; ++i, bytes += kSize) {
        seen_ = first + i;
        const auto id = little<std::uint64_t>(bytes + 4);
        const auto next = little<std::int64_t>(bytes + 16);
        if (id > Record::kPageMask) source_.fail("object id 0x" + hex(id) + " is no page number of 36 bits");
        // Writers number the first access 0 or 1; both lie above the number of what came before.
        const bool never = next == -1 || next == std::numeric_limits<std::int64_t>::max();
        if (!never && next <= static_cast<std::int64_t>(seen_)) {
          source_.fail("the next access, " + std::to_string(next) + ", does not lie after this one");
        }
        records_.push_back(Record::make(id, 0));
      }
      seen_ = first;
    });
    return std::move(records_);
  }

  std::vector<Record> lackey() {
    std::vector<char> buffer(kChunk);
    std::size_t kept = 0;
    bool skipping = false;  // inside a line of Valgrind's own that is longer than the buffer
    for (;;) {
      const std::size_t got = source_.read(std::span(buffer).subspan(kept));
      const std::string_view text(buffer.data(), kept + got);
      std::size_t at = 0;
      for (std::size_t end = 0; (end = text.find('\n', at)) != text.npos; at = end + 1) {
        if (!std::exchange(skipping, false)) line(text.substr(at, end - at));
        ++seen_;
      }
      const std::string_view rest = text.substr(at);
      if (kept + got < buffer.size()) {
        source_.check();
        if (!rest.empty() || skipping) source_.fail("the last line is cut off");
        break;
      }
      kept = rest.size();
      if (kept == buffer.size()) {
        if (!skipping && !rest.starts_with("==")) source_.fail("is no line of Lackey's, and endless");
        skipping = true;
        kept = 0;
      } else {
        std::memmove(buffer.data(), rest.data(), kept);
      }
    }
    if (records_.empty()) source_.fail(seen_ == 0 ? "the file is empty" : "there is no access in the file");
    return std::move(records_);
  }

 private:
  static std::string hex(std::uint64_t value) {
    std::array<char, 16> digits{};
    const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), value, 16);
    return {digits.data(), end};
  }
  void reserve(std::size_t size) {
    records_.reserve(static_cast<std::size_t>(std::min({source_.size_hint() / size, limit_, kMaxReserve})));
  }
  void check_limit(std::uint64_t more) {
    if (more > limit_ - records_.size()) {
      source_.fail("more than " + std::to_string(limit_) + " records are not taken");
    }
  }

  /// Effects: calls `take(bytes, count)` with whole structs until the file ends.
  template <std::size_t Size, class Take>
  void each_chunk(Take take) {
    std::vector<char> buffer(kChunk / Size * Size);
    for (;;) {
      const std::size_t got = source_.read(buffer);
      const std::size_t count = got / Size;
      if (count > limit_ - records_.size()) {
        seen_ = limit_;
        check_limit(count);
      }
      if (count != 0) take(buffer.data(), count);
      seen_ += count;
      if (got < buffer.size()) source_.check();
      if (got % Size != 0)
        source_.fail("is cut off: " + std::to_string(got % Size) + " bytes of " + std::to_string(Size));
      if (got < buffer.size()) break;
    }
    if (seen_ == 0) source_.fail("the file is empty");
  }

  void line(std::string_view text) {
    if (text.starts_with("==")) return;  // Valgrind's own
    bool store = false;
    bool fetch = false;
    if (text.starts_with("I  ")) {
      fetch = true;
    } else if (text.starts_with(" S ") || text.starts_with(" M ")) {
      store = true;
    } else if (!text.starts_with(" L ")) {
      unparsable(text);
    }
    const char* const end = text.data() + text.size();
    std::uint64_t address = 0;
    std::uint64_t size = 0;
    const auto a = std::from_chars(text.data() + 3, end, address, 16);
    if (a.ec != std::errc{} || a.ptr == end || *a.ptr != ',') unparsable(text);
    const auto s = std::from_chars(a.ptr + 1, end, size, 10);
    if (s.ec != std::errc{} || s.ptr != end) unparsable(text);
    if (size == 0 || size > 4096) source_.fail("an access of " + std::to_string(size) + " bytes");
    const std::uint64_t last = address + size - 1;
    if (!canonical(address) || !canonical(last) || last < address) {
      source_.fail("address 0x" + hex(address) + " is not canonical");
    }
    const std::uint64_t first = address >> 12;
    const std::uint64_t pages = (last >> 12) - first + 1;
    check_limit(pages);
    for (std::uint64_t i = 0; i < pages; ++i) records_.push_back(Record::make(first + i, 0, store, fetch));
  }
  static bool canonical(std::uint64_t address) noexcept {
    const std::uint64_t high = address >> 47;
    return high == 0 || high == 0x1ffff;
  }
  /// Quotes the start of the line, made printable: it may be anything.
  [[noreturn]] void unparsable(std::string_view text) const {
    std::string shown(text.substr(0, 40));
    for (char& c : shown) c = c < ' ' || c > '~' ? '?' : c;
    source_.fail("'" + shown + "' is no line of Lackey's");
  }

  std::uint64_t limit_;
  std::uint64_t seen_ = 0;
  std::vector<Record> records_;
  Source source_;
};

/// Returns: whether the file starts as Lackey's text does.
bool starts_as_lackey(const std::string& path) {
  const std::uint64_t none = 0;
  std::array<char, 3> start{};
  Source source(path, none);
  const std::size_t got = source.read(start);
  if (got < start.size()) source.check();
  const std::string_view text(start.data(), got);
  if (got < start.size()) throw TraceError(path, 1, got == 0 ? "the file is empty" : "the file is of no known format");
  return text.starts_with("==") || text == "I  " || text == " L " || text == " S " || text == " M ";
}

std::string_view base_name(std::string_view path) noexcept {
  const std::size_t slash = path.rfind('/');
  return slash == path.npos ? path : path.substr(slash + 1);
}

struct Suffix {
  std::string_view text;
  TraceFormat format;
};
constexpr std::array kSuffixes{Suffix{".u64", TraceFormat::Native}, Suffix{".lackey", TraceFormat::Lackey},
                               Suffix{".oracleGeneral", TraceFormat::OracleGeneral},
                               Suffix{".oracleGeneral.bin", TraceFormat::OracleGeneral}};

std::pair<std::string_view, TraceFormat> split_name(std::string_view path) noexcept {
  std::string_view name = base_name(path);
  if (name.ends_with(kZst)) name.remove_suffix(kZst.size());
  for (const Suffix& suffix : kSuffixes) {
    if (name.ends_with(suffix.text)) {
      name.remove_suffix(suffix.text.size());
      return {name, suffix.format};
    }
  }
  return {name, TraceFormat::Guess};
}

std::vector<Record> load_records(const std::string& path, TraceFormat format, std::uint64_t limit) {
  switch (format) {
    case TraceFormat::Native:
      return Loader(path, limit).native();
    case TraceFormat::Lackey:
      return Loader(path, limit).lackey();
    case TraceFormat::OracleGeneral:
      return Loader(path, limit).oracle_general();
    case TraceFormat::Guess:
      break;
  }
  throw TraceError(path, 1, "the file is of no known format");
}

/// Writes a file beside `path`, which takes its name only when it is complete.
class Sink {
 public:
  explicit Sink(const std::string& path)
      : path_(path), part_(path + std::string(kPart)), file_(std::fopen(part_.c_str(), "wb")) {
    if (!file_) throw TraceError(path_, 1, system_reason("cannot be made"));
  }
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;
  ~Sink() {
    if (!file_) return;
    file_.reset();
    static_cast<void>(std::remove(part_.c_str()));
  }
  void write(const void* data, std::size_t size) {
    if (std::fwrite(data, 1, size, file_.get()) != size) fail();
  }
  void commit() {
    if (std::fflush(file_.get()) != 0 || std::rename(part_.c_str(), path_.c_str()) != 0) fail();
    file_.reset();
  }

 private:
  [[noreturn]] void fail() const { throw TraceError(path_, 1, system_reason("cannot be written")); }

  std::string path_;
  std::string part_;
  File file_;
};

void check_zstd(const std::string& path, std::size_t code) {
  if (ZSTD_isError(code) != 0)
    throw TraceError(path, 1, std::string("cannot be compressed: ") + ZSTD_getErrorName(code));
}

void compress(const std::string& path, std::span<const char> bytes, Sink& sink) {
  const std::unique_ptr<ZSTD_CCtx, Closer> context(ZSTD_createCCtx());
  if (!context) throw TraceError(path, 1, "no memory to compress");
  using Setting = std::pair<ZSTD_cParameter, int>;
  for (const auto& [parameter, value] :
       {Setting{ZSTD_c_compressionLevel, kLevel}, Setting{ZSTD_c_windowLog, kWindowLog},
        Setting{ZSTD_c_enableLongDistanceMatching, 1}, Setting{ZSTD_c_checksumFlag, 1}}) {
    check_zstd(path, ZSTD_CCtx_setParameter(context.get(), parameter, value));
  }
  // Known ahead, a short trace needs no wide window to be read.
  check_zstd(path, ZSTD_CCtx_setPledgedSrcSize(context.get(), bytes.size()));
  std::vector<char> buffer(ZSTD_CStreamOutSize());
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  for (std::size_t left = 1; left != 0;) {
    ZSTD_outBuffer out{buffer.data(), buffer.size(), 0};
    left = ZSTD_compressStream2(context.get(), &out, &in, ZSTD_e_end);
    check_zstd(path, left);
    sink.write(buffer.data(), out.pos);
  }
}

}  // namespace

TraceFormat format_of_name(std::string_view path) noexcept { return split_name(path).second; }

Trace load_trace(const std::string& path, TraceFormat format, std::uint64_t limit) {
  if (format == TraceFormat::Guess) format = format_of_name(path);
  if (format == TraceFormat::Guess && starts_as_lackey(path)) format = TraceFormat::Lackey;
  return {std::string(split_name(path).first), load_records(path, format, limit)};
}

void save_trace(const std::string& path, const std::vector<Record>& records) {
  if (records.empty()) throw TraceError(path, 1, "a trace without records is none");
  const auto bad =
      std::find_if(records.begin(), records.end(), [](Record r) { return (r.word & Record::kReserved) != 0; });
  if (bad != records.end()) {
    throw TraceError(path, static_cast<std::uint64_t>(bad - records.begin()) + 1, "bits 54 to 62 are reserved");
  }
  std::vector<Record> swapped;
  const std::vector<Record>* from = &records;
  if constexpr (std::endian::native == std::endian::big) {
    swapped = records;
    for (Record& r : swapped) r.word = little<std::uint64_t>(reinterpret_cast<const char*>(&r.word));
    from = &swapped;
  }
  const std::span<const char> bytes(reinterpret_cast<const char*>(from->data()), from->size() * sizeof(Record));
  Sink sink(path);
  if (path.ends_with(kZst)) {
    compress(path, bytes, sink);
  } else {
    sink.write(bytes.data(), bytes.size());
  }
  sink.commit();
}

}  // namespace shadowmmu::bench
