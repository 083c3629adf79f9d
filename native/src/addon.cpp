// SPDX-License-Identifier: Apache-2.0
//
// The addon: a table of what it offers, and the conversion of values. The only file that knows Node-API.
//
// Each function takes what `KernelPort` (plugin/kernel/port.ts) says and does one thing. A failure is thrown as an
// Error with `code` (an errno's name, or EREFUSED), a message, and `log` where there is one; plugin/kernel/native.ts
// makes a KernelError of it. Values come from native.ts, already checked by its types: no second check here.
#include <napi.h>

#include <cstring>

#include "clsact.h"
#include "events.h"
#include "inspect.h"
#include "maps.h"
#include "netns.h"
#include "open.h"
#include "peer.h"
#include "pins.h"
#include "stage.h"
#include "tcx.h"
#include "testrun.h"

namespace {

using namespace remora;
using Napi::Array, Napi::Boolean, Napi::BigInt, Napi::CallbackInfo, Napi::Env, Napi::Number, Napi::Object,
    Napi::String, Napi::Value;

// ---- failures ---------------------------------------------------------------------------------------------------

std::string codeOf(int error) {
  if (error == kRefused) return "EREFUSED";
  if (error == 524) return "ENOTSUPP";  // the kernel's own, which no C library knows
  auto name = strerrorname_np(error);
  return name ? name : "E" + std::to_string(error);
}

[[noreturn]] void raise(Env env, const Failure &failure) {
  auto text = failure.error == kRefused ? "" : failure.error == 524 ? "Operation not supported" : strerror(failure.error);
  auto error = Napi::Error::New(env, failure.message.empty() ? text : failure.message);
  error.Value().Set("code", codeOf(failure.error));
  error.Value().Set("reason", text);
  if (!failure.log.empty()) error.Value().Set("log", failure.log);
  throw error;
}

// The value of a result, or the exception.
template <typename T>
T take(Env env, Result<T> result) {
  if (!result) raise(env, result.failure());
  return std::move(*result);
}
void check(Env env, int error) {
  if (error < 0) raise(env, failed(-error));
}

// ---- from JavaScript --------------------------------------------------------------------------------------------

Value field(const Object &object, const char *name) { return object.Get(name); }
std::string asText(const Value &value) { return value.As<String>().Utf8Value(); }
int asFd(const Value &value) { return value.As<Number>().Int32Value(); }
uint32_t asCount(const Value &value) { return value.As<Number>().Uint32Value(); }
Bytes asBytes(const Value &value) {
  auto array = value.As<Napi::Uint8Array>();
  return {array.Data(), array.ByteLength()};
}
std::vector<uint8_t> copyBytes(const Value &value) {
  auto bytes = asBytes(value);
  return {bytes.begin(), bytes.end()};
}
template <typename T, typename Convert>
std::vector<T> asList(const Value &value, Convert convert) {
  auto array = value.As<Array>();
  std::vector<T> list;
  for (uint32_t i = 0; i < array.Length(); i++) list.push_back(convert(Value(array.Get(i))));
  return list;
}

// ---- to JavaScript ----------------------------------------------------------------------------------------------

Value toBuffer(Env env, const std::vector<uint8_t> &bytes) {
  return Napi::Buffer<uint8_t>::Copy(env, bytes.data(), bytes.size());
}
template <typename List, typename Convert>
Array toArray(Env env, List &&list, Convert convert) {
  auto array = Array::New(env, std::size(list));
  uint32_t i = 0;
  for (auto &item : list) array.Set(i++, convert(item));
  return array;
}
Array toStrings(Env env, const std::vector<std::string> &list) {
  return toArray(env, list, [&](auto &text) { return String::New(env, text); });
}

Object toType(Env env, const Type &type) {
  auto object = Object::New(env);
  object.Set("kind", type.kind);
  object.Set("size", Number::New(env, type.size));
  if (type.kind != "array") object.Set("name", type.name);
  if (type.kind == "int" || type.kind == "enum") object.Set("signed", Boolean::New(env, type.isSigned));
  if (type.kind == "int") object.Set("encoding", type.encoding);
  if (type.kind == "enum")
    object.Set("values", toArray(env, type.values, [&](auto &value) {
                 auto entry = Object::New(env);
                 entry.Set("name", value.name);
                 entry.Set("value", BigInt::New(env, value.value));
                 return entry;
               }));
  if (type.kind == "array") {
    object.Set("length", Number::New(env, type.length));
    object.Set("element", toType(env, type.inner[0]));
  }
  if (type.kind == "struct" || type.kind == "union") {
    auto members = Array::New(env, type.members.size());
    for (uint32_t i = 0; i < type.members.size(); i++) {
      auto member = Object::New(env);
      member.Set("name", type.members[i].name);
      member.Set("bitOffset", Number::New(env, type.members[i].bitOffset));
      member.Set("bitSize", Number::New(env, type.members[i].bitSize));
      member.Set("type", toType(env, type.inner[i]));
      members.Set(i, member);
    }
    object.Set("members", members);
  }
  return object;
}

Object toNamespace(Env env, const NamespaceId &id) {
  auto object = Object::New(env);
  object.Set("dev", BigInt::New(env, id.dev));
  object.Set("ino", BigInt::New(env, id.ino));
  object.Set("cookie", BigInt::New(env, id.cookie));
  return object;
}

// ---- objects and stages -----------------------------------------------------------------------------------------

Value InspectObject(const CallbackInfo &info) {
  auto env = info.Env();
  auto facts = take(env, inspectObject(asBytes(info[0])));
  auto object = Object::New(env);
  object.Set("programs", toArray(env, facts.programs, [&](auto &program) {
               auto entry = Object::New(env);
               entry.Set("name", program.name);
               entry.Set("section", program.section);
               entry.Set("type", program.type);
               entry.Set("tailCalls", Number::New(env, program.tailCalls));
               entry.Set("inner", Boolean::New(env, program.inner));
               entry.Set("resizes", Boolean::New(env, program.resizes));
               return entry;
             }));
  object.Set("maps", toArray(env, facts.maps, [&](auto &map) {
               auto entry = Object::New(env);
               entry.Set("name", map.name);
               entry.Set("type", map.type);
               entry.Set("keySize", Number::New(env, map.keySize));
               entry.Set("valueSize", Number::New(env, map.valueSize));
               entry.Set("maxEntries", Number::New(env, map.maxEntries));
               entry.Set("flags", Number::New(env, map.flags));
               entry.Set("pinned", Boolean::New(env, map.pinned));
               entry.Set("internal", Boolean::New(env, map.internal));
               entry.Set("tags", toStrings(env, map.tags));
               entry.Set("layout", map.layout);
               return entry;
             }));
  object.Set("parameters", toArray(env, facts.parameters, [&](auto &parameter) {
               auto entry = Object::New(env);
               entry.Set("name", parameter.name);
               entry.Set("type", toType(env, parameter.type));
               entry.Set("initial", toBuffer(env, parameter.initial));
               entry.Set("tags", toStrings(env, parameter.tags));
               return entry;
             }));
  object.Set("license", facts.license);
  object.Set("btf", Boolean::New(env, facts.btf));
  return object;
}

Value LoadStage(const CallbackInfo &info) {
  auto env = info.Env();
  auto request = info[0].As<Object>();
  StageSpec spec{
      .object = asBytes(field(request, "object")),
      .name = asText(field(request, "name")),
      .entries = asList<StageEntry>(
          field(request, "entries"),
          [](const Value &value) {
            auto entry = value.As<Object>();
            return StageEntry{asText(field(entry, "function")),
                              asList<StageParameter>(field(entry, "parameters"), [](const Value &parameter) {
                                auto object = parameter.As<Object>();
                                return StageParameter{asText(field(object, "name")), copyBytes(field(object, "bytes"))};
                              })};
          }),
      .position = asCount(field(request, "position")),
      .length = asCount(field(request, "length")),
      .proceedOn = asList<int32_t>(field(request, "proceedOn"),
                                   [](const Value &value) { return value.As<Number>().Int32Value(); }),
      .closed = asText(field(request, "failurePolicy")) == "closed",
      .chain = asFd(field(request, "chain")),
      .counters = asFd(field(request, "counters")),
      .endings = {},
      .countHead = field(request, "countHead").As<Boolean>(),
      .reuse = asList<ReusedMap>(field(request, "reuse"),
                                 [](const Value &value) {
                                   auto map = value.As<Object>();
                                   return ReusedMap{asText(field(map, "name")), asFd(field(map, "fd"))};
                                 }),
      .without = {},
      .trace = {},
  };
  if (auto given = field(request, "endings"); given.IsArray()) spec.endings = asList<int>(given, asFd);
  if (auto given = field(request, "without"); given.IsArray()) spec.without = asList<std::string>(given, asText);
  if (auto given = field(request, "trace"); given.IsObject()) {
    auto trace = given.As<Object>();
    spec.trace = TraceSpec{asFd(field(trace, "events")), asFd(field(trace, "state")), asCount(field(trace, "sample")),
                           asCount(field(trace, "bytes")), asCount(field(trace, "tag"))};
  }
  auto stage = take(env, loadStage(spec));
  auto object = Object::New(env);
  object.Set("program", Number::New(env, stage.program.release()));
  object.Set("programId", Number::New(env, stage.programId));
  object.Set("placed", Boolean::New(env, stage.placed));
  object.Set("maps", toArray(env, stage.maps, [&](StageMap &map) {
               auto entry = Object::New(env);
               entry.Set("name", map.name);
               entry.Set("fd", Number::New(env, map.fd.release()));
               entry.Set("id", Number::New(env, map.id));
               entry.Set("pinned", Boolean::New(env, map.pinned));
               entry.Set("internal", Boolean::New(env, map.internal));
               entry.Set("type", map.type);
               return entry;
             }));
  return object;
}

// ---- maps and programs ------------------------------------------------------------------------------------------

Value CreateMap(const CallbackInfo &info) {
  auto spec = info[0].As<Object>();
  auto map = take(info.Env(), createMap({asText(field(spec, "type")), asText(field(spec, "name")),
                                         asCount(field(spec, "keySize")), asCount(field(spec, "valueSize")),
                                         asCount(field(spec, "maxEntries"))}));
  return Number::New(info.Env(), map.release());
}

Value MapInfo(const CallbackInfo &info) {
  auto env = info.Env();
  auto map = take(env, mapInfo(asFd(info[0])));
  auto object = Object::New(env);
  object.Set("id", Number::New(env, map.id));
  object.Set("type", map.type);
  object.Set("name", map.name);
  object.Set("keySize", Number::New(env, map.keySize));
  object.Set("valueSize", Number::New(env, map.valueSize));
  object.Set("maxEntries", Number::New(env, map.maxEntries));
  return object;
}

void UpdateMap(const CallbackInfo &info) {
  take(info.Env(), updateMap(asFd(info[0]), copyBytes(info[1]), copyBytes(info[2])));
}

void DeleteFromMap(const CallbackInfo &info) {
  take(info.Env(), deleteFromMap(asFd(info[0]), copyBytes(info[1])));
}

Value LookupMap(const CallbackInfo &info) {
  auto value = take(info.Env(), lookUpMap(asFd(info[0]), copyBytes(info[1])));
  return value ? toBuffer(info.Env(), *value) : info.Env().Undefined();
}

Value MapEntries(const CallbackInfo &info) {
  auto env = info.Env();
  auto found = take(env, mapEntries(asFd(info[0]), asCount(info[1])));
  auto object = Object::New(env);
  object.Set("entries", toArray(env, found.list, [&](auto &entry) {
               auto pair = Object::New(env);
               pair.Set("key", toBuffer(env, entry.first));
               pair.Set("value", toBuffer(env, entry.second));
               return pair;
             }));
  object.Set("more", Boolean::New(env, found.more));
  return object;
}

Value ReadMap(const CallbackInfo &info) {
  auto env = info.Env();
  auto snapshot = take(env, readMap(asFd(info[0])));
  auto object = Object::New(env);
  object.Set("count", Number::New(env, snapshot.count));
  object.Set("keys", toBuffer(env, snapshot.keys));
  object.Set("values", toBuffer(env, snapshot.values));
  return object;
}

Value MapTypes(const CallbackInfo &info) {
  auto env = info.Env();
  auto types = take(env, mapTypes(asFd(info[0])));
  if (!types) return env.Undefined();
  auto object = Object::New(env);
  object.Set("key", toType(env, types->key));
  object.Set("value", toType(env, types->value));
  return object;
}

Value OpenMapById(const CallbackInfo &info) {
  return Number::New(info.Env(), take(info.Env(), openMapById(asCount(info[0]))).release());
}
Value OpenProgramById(const CallbackInfo &info) {
  return Number::New(info.Env(), take(info.Env(), openProgramById(asCount(info[0]))).release());
}

Value OpenEvents(const CallbackInfo &info) {
  return Number::New(info.Env(), take(info.Env(), openEvents(asFd(info[0]))));
}

Value ReadEvents(const CallbackInfo &info) {
  auto env = info.Env();
  return toArray(env, take(env, readEvents(asCount(info[0]), asCount(info[1]))),
                 [&](auto &event) { return toBuffer(env, event); });
}

void CloseEvents(const CallbackInfo &info) { check(info.Env(), closeEvents(asCount(info[0]))); }

void FreezeMap(const CallbackInfo &info) { check(info.Env(), freezeMap(asFd(info[0]))); }

void AwaitPrograms(const CallbackInfo &info) { check(info.Env(), awaitPrograms()); }

Value ProgramInfo(const CallbackInfo &info) {
  auto env = info.Env();
  auto program = take(env, programInfo(asFd(info[0])));
  auto object = Object::New(env);
  object.Set("id", Number::New(env, program.id));
  object.Set("name", program.name);
  object.Set("type", program.type);
  object.Set("tag", program.tag);
  object.Set("mapIds", toArray(env, program.mapIds, [&](uint32_t id) { return Number::New(env, id); }));
  object.Set("instructions", Number::New(env, program.instructions));
  object.Set("verified", Number::New(env, program.verified));
  return object;
}

Value TestRun(const CallbackInfo &info) {
  auto env = info.Env();
  auto request = info[0].As<Object>();
  auto context = field(request, "context").As<Object>();
  TestRunSpec spec{asFd(field(request, "program")), copyBytes(field(request, "packet")), {},
                   asCount(field(request, "repeat"))};
  spec.context.mark = asCount(field(context, "mark"));
  spec.context.priority = asCount(field(context, "priority"));
  spec.context.ifindex = asCount(field(context, "ifindex"));
  spec.context.gso_segs = asCount(field(context, "gsoSegs"));
  spec.context.gso_size = asCount(field(context, "gsoSize"));
  spec.context.wire_len = asCount(field(context, "wireLen"));
  auto cb = asList<uint32_t>(field(context, "cb"), asCount);
  for (size_t i = 0; i < std::min<size_t>(cb.size(), 5); i++) spec.context.cb[i] = cb[i];

  auto outcome = take(env, testRun(std::move(spec)));
  auto after = Object::New(env);
  after.Set("mark", Number::New(env, outcome.context.mark));
  after.Set("priority", Number::New(env, outcome.context.priority));
  after.Set("cb", toArray(env, outcome.context.cb, [&](uint32_t word) { return Number::New(env, word); }));
  auto object = Object::New(env);
  object.Set("verdict", Number::New(env, outcome.verdict));
  object.Set("packet", toBuffer(env, outcome.packet));
  object.Set("context", after);
  object.Set("duration", Number::New(env, outcome.duration));
  return object;
}

// ---- links, namespaces, pins ------------------------------------------------------------------------------------

HookPlace asPlace(const Value &value) {
  auto place = value.As<Object>();
  auto netns = field(place, "netns");
  return {netns.IsUndefined() ? "" : asText(netns), asCount(field(place, "ifindex")),
          asText(field(place, "direction")) == "ingress"};
}

Value AttachTcx(const CallbackInfo &info) {
  auto request = info[0].As<Object>();
  auto link = take(info.Env(), attachTcx(asPlace(request), asFd(field(request, "program")),
                                         field(request, "before").ToBoolean()));
  return Number::New(info.Env(), link.release());
}

Value ListTcx(const CallbackInfo &info) {
  auto env = info.Env();
  auto programs = take(env, listTcx(asPlace(info[0])));
  return toArray(env, programs, [&](auto &program) {
    auto object = Object::New(env);
    object.Set("programId", Number::New(env, program.programId));
    object.Set("linkId", Number::New(env, program.linkId));
    object.Set("name", program.name);
    return object;
  });
}

Value LinkInfo(const CallbackInfo &info) {
  auto env = info.Env();
  auto link = take(env, linkInfo(asFd(info[0])));
  auto object = Object::New(env);
  object.Set("id", Number::New(env, link.id));
  object.Set("type", link.type);
  object.Set("programId", Number::New(env, link.programId));
  object.Set("ifindex", Number::New(env, link.ifindex));
  object.Set("direction", link.direction.empty() ? env.Null() : Value(String::New(env, link.direction)));
  return object;
}

void UpdateLink(const CallbackInfo &info) { check(info.Env(), updateLink(asFd(info[0]), asFd(info[1]))); }
void DetachLink(const CallbackInfo &info) { check(info.Env(), detachLink(asFd(info[0]))); }

FilterFacts asFilter(const Value &value) {
  auto filter = value.As<Object>();
  return {asCount(field(filter, "priority")), asCount(field(filter, "handle")), asCount(field(filter, "programId"))};
}
Object toFilter(Env env, const FilterFacts &filter) {
  auto object = Object::New(env);
  object.Set("priority", Number::New(env, filter.priority));
  object.Set("handle", Number::New(env, filter.handle));
  object.Set("programId", Number::New(env, filter.programId));
  return object;
}

Value AttachFilter(const CallbackInfo &info) {
  auto env = info.Env();
  auto request = info[0].As<Object>();
  auto filter = take(env, attachFilter(asPlace(request), asFd(field(request, "program"))));
  auto object = toFilter(env, filter);
  object.Set("madeQdisc", Boolean::New(env, filter.madeQdisc));
  return object;
}

void ReplaceFilter(const CallbackInfo &info) {
  check(info.Env(),
        replaceFilter(asPlace(info[0]), asFilter(info[1]), asFd(info[2])));
}

Value HasQdisc(const CallbackInfo &info) {
  return Boolean::New(info.Env(), take(info.Env(), hasQdisc(asPlace(info[0]))));
}

Value ListFilters(const CallbackInfo &info) {
  auto env = info.Env();
  auto filters = take(env, listFilters(asPlace(info[0])));
  return toArray(env, filters, [&](auto &filter) { return toFilter(env, filter); });
}

Value FindFilter(const CallbackInfo &info) {
  auto env = info.Env();
  auto at = info[1].As<Object>();
  auto found = take(env, findFilter(asPlace(info[0]), asCount(field(at, "priority")), asCount(field(at, "handle"))));
  return found ? toFilter(env, *found) : env.Undefined();
}

void DetachFilter(const CallbackInfo &info) {
  check(info.Env(), detachFilter(asPlace(info[0]), asFilter(info[1])));
}

Value RemoveQdisc(const CallbackInfo &info) {
  return Boolean::New(info.Env(), take(info.Env(), removeQdisc(asPlace(info[0]))));
}

Value FindInterface(const CallbackInfo &info) {
  auto env = info.Env();
  auto found = take(env, findInterface(asText(info[0]), asText(info[1])));
  auto object = Object::New(env);
  object.Set("ifindex", Number::New(env, found.ifindex));
  object.Set("mac", found.mac);
  object.Set("mtu", Number::New(env, found.mtu));
  object.Set("namespace", toNamespace(env, found.where));
  return object;
}

Value InterfaceAddresses(const CallbackInfo &info) {
  auto env = info.Env();
  auto found = take(env, interfaceAddresses(asText(info[0]), asText(info[1])));
  auto list = Array::New(env, found.size());
  for (uint32_t at = 0; at < found.size(); at++) list.Set(at, found[at]);
  return list;
}

Value FindPeer(const CallbackInfo &info) {
  auto env = info.Env();
  auto found = take(env, findPeer(asText(info[0]), asText(info[1])));
  auto object = Object::New(env);
  object.Set("ifindex", Number::New(env, found.ifindex));
  object.Set("ifname", found.name);
  object.Set("kind", found.kind);
  return object;
}

Value NamespaceIdentity(const CallbackInfo &info) {
  return toNamespace(info.Env(), take(info.Env(), namespaceIdentity(asText(info[0]))));
}

void Pin(const CallbackInfo &info) { check(info.Env(), pin(asFd(info[0]), asText(info[1]))); }

Value OpenPin(const CallbackInfo &info) {
  auto env = info.Env();
  auto thing = take(env, openPin(asText(info[0])));
  auto object = Object::New(env);
  object.Set("kind", thing.kind);
  object.Set("fd", Number::New(env, thing.fd.release()));
  return object;
}

Value TryLock(const CallbackInfo &info) {
  return Number::New(info.Env(), take(info.Env(), tryLock(asText(info[0]))).release());
}

void Close(const CallbackInfo &info) {
  if (close(asFd(info[0])) != 0) raise(info.Env(), failedErrno());
}

// ---- the table --------------------------------------------------------------------------------------------------

template <auto function>
void offer(Object &exports, const char *name) {
  exports.Set(name, Napi::Function::New<function>(exports.Env(), name));
}

Object Init(Env, Object exports) {
  captureLog();  // before libbpf has anything to say: it would say it on stderr
  offer<InspectObject>(exports, "inspectObject");
  offer<LoadStage>(exports, "loadStage");
  offer<CreateMap>(exports, "createMap");
  offer<MapInfo>(exports, "mapInfo");
  offer<UpdateMap>(exports, "updateMap");
  offer<DeleteFromMap>(exports, "deleteFromMap");
  offer<LookupMap>(exports, "lookupMap");
  offer<MapEntries>(exports, "mapEntries");
  offer<ReadMap>(exports, "readMap");
  offer<MapTypes>(exports, "mapTypes");
  offer<OpenMapById>(exports, "openMapById");
  offer<OpenProgramById>(exports, "openProgramById");
  offer<OpenEvents>(exports, "openEvents");
  offer<ReadEvents>(exports, "readEvents");
  offer<CloseEvents>(exports, "closeEvents");
  offer<FreezeMap>(exports, "freezeMap");
  offer<AwaitPrograms>(exports, "awaitPrograms");
  offer<ProgramInfo>(exports, "programInfo");
  offer<TestRun>(exports, "testRun");
  offer<AttachTcx>(exports, "attachTcx");
  offer<ListTcx>(exports, "listTcx");
  offer<LinkInfo>(exports, "linkInfo");
  offer<UpdateLink>(exports, "updateLink");
  offer<DetachLink>(exports, "detachLink");
  offer<AttachFilter>(exports, "attachFilter");
  offer<ReplaceFilter>(exports, "replaceFilter");
  offer<HasQdisc>(exports, "hasQdisc");
  offer<ListFilters>(exports, "listFilters");
  offer<FindFilter>(exports, "findFilter");
  offer<DetachFilter>(exports, "detachFilter");
  offer<RemoveQdisc>(exports, "removeQdisc");
  offer<FindInterface>(exports, "findInterface");
  offer<InterfaceAddresses>(exports, "interfaceAddresses");
  offer<FindPeer>(exports, "findPeer");
  offer<NamespaceIdentity>(exports, "namespaceIdentity");
  offer<Pin>(exports, "pin");
  offer<OpenPin>(exports, "openPin");
  offer<TryLock>(exports, "tryLock");
  offer<Close>(exports, "close");
  return exports;
}

}  // namespace

NODE_API_MODULE(remora, Init)
