--- Lets the clients of a relay reach TCP services on, or behind, this device.
--
--     local tcpremote = require "tcpremote"
--     local tunnel, message, code = tcpremote.connect {
--       server_address = "relay.example.com", server_port = 2065,
--     }
--
-- A tunnel works in a thread of its own until it is closed or collected. Operational failures are returned as
-- `nil, message, code`; misuse raises a string.
local core = require "tcpremote.core"
local options_of = require "tcpremote.options"
local scheduler = require "tcpremote.scheduler"

---@class tcpremote
---@field _VERSION string
local tcpremote = { _VERSION = core._VERSION }

--- The key of the native handle, which closes the tunnel when it is collected.
local HANDLE = {}

---@class tcpremote.Tunnel
local Tunnel = {}
local metatable = { __index = Tunnel }

local function handle_of(tunnel, method)
  if getmetatable(tunnel) ~= metatable then
    local hint = ("tunnel expected, got %s; call it as tunnel:%s()"):format(type(tunnel), method)
    error(("bad argument #1 to '%s' (%s)"):format(method, hint), 3)
  end
  return tunnel[HANDLE]
end

local function check_seconds(seconds, method)
  if seconds ~= nil and not (type(seconds) == "number" and seconds >= 0) then
    local hint = ("seconds expected, 0 or more, got %s"):format(tostring(seconds))
    error(("bad argument #1 to '%s' (%s)"):format(method, hint), 3)
  end
end

---@class tcpremote.Status
---@field state "connecting"|"greeting"|"listening"|"waiting"|"closed"
---@field since number seconds in that state
---@field server string the relay that is used or tried, host:port
---@field name? string what the relay calls this device; in TLS
---@field fingerprint? string of this device's key; in TLS
---@field peer? string the address that it resolved to, or that of the proxy
---@field protocol? integer the version spoken on the link, once the relay has answered
---@field round_trip? number seconds that a PING takes to the relay and back; version 2
---@field clients integer open now
---@field clients_total integer since the start
---@field bytes_sent integer payload from services to clients
---@field bytes_received integer payload from clients to services
---@field ignored_frames integer frames that the relay should not have sent, skipped
---@field events_dropped integer events that were not taken in time; 1,024 are kept
---@field reconnects integer how often the link was made anew
---@field next_attempt? number seconds until the next attempt, while waiting for it
---@field last_error? string
---@field last_error_code? string

--- What the tunnel is doing.
---@return tcpremote.Status? status
---@return string? message
---@return string? code
function Tunnel:status()
  return handle_of(self, "status"):status()
end

---@class tcpremote.Event
---@field type "greeting"|"listening"|"waiting"|"kept"|"closed"|"connect"|"disconnect"|"failed"|"denied"|"stalled"
---|"protocol"|"joined"|"identity"
---@field severity "ERROR"|"WARNING"|"INFO"|"DETAIL"
---@field time number seconds since 1970
---@field message string one line for a person
---@field client? integer the client's number on the link
---@field service? string host:port
---@field code? string where the event is a failure

--- Takes the oldest event; or returns nil and "timeout" if there is none yet, "closed" if there will be none.
---@return tcpremote.Event? event
---@return string? reason
---@return string? code
function Tunnel:next_event()
  return handle_of(self, "next_event"):next_event()
end

--- The name that copas calls it by: `copas.receive(tunnel)` waits for the next event.
Tunnel.receive = Tunnel.next_event

--- Waits until `next_event` has something. Returns true; or nil and "timeout", "closed" (there will be no more) or
--- "interrupted" (a signal arrived).
---@param seconds? number for ever without it
---@return true? ready
---@return string? reason
---@return string? code
function Tunnel:wait(seconds)
  local handle = handle_of(self, "wait")
  check_seconds(seconds, "wait")
  return handle:wait(seconds)
end

--- A descriptor for event loops, readable while there are events. Do not read or close it.
---@return integer? descriptor
---@return string? message
---@return string? code
function Tunnel:getfd()
  return handle_of(self, "getfd"):getfd()
end

--- Makes the link anew now, for a program that knows better than a timer: the network is back, or the relay has moved.
--- Ends a wait, begins an attempt again, and replaces a link in use once the relay has answered on the next; in version
--- 2 the clients of the old one may finish there. Does not wait: events say what becomes of it.
---@return true? requested
---@return string? message
---@return string? code
function Tunnel:reconnect()
  return handle_of(self, "reconnect"):reconnect()
end

--- Sends no LISTEN for so many seconds, so that another tunnel can take this one's place. The link in use goes on, and
--- one that is being made waits; only in the state "greeting" LISTEN has left already. 0 ends it.
---@package
---@param seconds number
function Tunnel:hold(seconds)
  return handle_of(self, "hold"):hold(seconds)
end

--- Delivers what was read from services, then ends the clients, the link and the thread. Bounded in time; the last
--- events can still be taken. With `seconds` it waits at most so long, and returns nil and "timeout" if more is needed:
--- the tunnel goes on ending, and `close` may be called again.
---@param seconds? number 0 does not wait
---@return true? closed
---@return string? message
---@return string? code
function Tunnel:close(seconds)
  local handle = handle_of(self, "close")
  check_seconds(seconds, "close")
  return handle:close(seconds)
end

function metatable.__tostring(tunnel)
  local status, message = tunnel[HANDLE]:status()
  return ("tcpremote tunnel (%s)"):format(status and status.server .. ", " .. status.state or message)
end

function metatable.__close(tunnel)
  tunnel[HANDLE]:close()
end

---@class tcpremote.Service
---@field target string host:port, as seen from the device
---@field port? integer the number by which it is asked for, too; its target's port without it
---@field proxy_protocol? 2 its connections begin with a header that names the client; none without it

---@class tcpremote.Options
---@field server_address? string the relay's host: a name or an address
---@field server_port? integer the relay's port for devices
---@field state_dir? string in place of the two: the directory with this device's key and what it knows of its relay.
--- The link is in TLS then
---@field join? string with state_dir: the string by which this device joins a relay. One that was used already means
--- nothing, so that it may stay here
---@field name? string with join: the name to ask for, where the string allows several
---@field proxy? string the HTTP proxy on the way to the relay, "http://user:password@host:port"
---@field local_address? string with local_port: the one service that the relay may reach
---@field local_port? integer
---@field allow? "any"|(string|integer)[] what the relay may reach: addresses, networks, names, ports and ranges.
--- Without this, services and local_address: any port of the device itself
---@field services? table<string, string|tcpremote.Service> what the relay may ask for by name, such as
--- { ssh = "127.0.0.1:22" }. Without allow nothing else can be reached
---@field connect_timeout? number seconds, 10 without it
---@field reconnect? boolean whether a link that is lost is made anew, for ever; true without it
---@field keep_trying? boolean whether the first link is tried for until there is one, too; false without it. Then the
--- tunnel that `connect` returns may be "waiting"
---@field keepalive? integer seconds of silence, from 5 to 3600, after which the relay is asked whether it is there,
--- while there are no clients; 90 without it. The relay may want less
---@field protocol? 1|2 the newest version of the protocol to speak, 2 without it
---@field min_protocol? 1|2 the oldest one, 1 without it

--- Connects to a relay and offers it this device's services. Returns once the relay can use the tunnel, or
--- `nil, message, code` within `connect_timeout`. A link that is lost later is made anew, after a wait that grows from
--- 1 s to 60 s, until the tunnel is closed. Inside a task of the ReadyAgent's scheduler the other tasks go on.
---@param options tcpremote.Options
---@return tcpremote.Tunnel? tunnel
---@return string? message
---@return string? code
function tcpremote.connect(options)
  local mistake = options_of.mistake(options)
  if mistake then
    error("tcpremote.connect: " .. mistake, 2)
  end
  local handle, message, code = core.start(options)
  if not handle then
    return nil, message, code
  end
  local tunnel = setmetatable({ [HANDLE] = handle }, metatable)
  -- The first event ends the waiting: "greeting" or, in TLS, "listening"; "closed"; with keep_trying, "waiting"; or
  -- "identity", where this device goes on as it was. It stays for the caller to take, and the state may be another by
  -- then.
  while select(2, handle:wait(0)) == "timeout" do
    if not scheduler.wait_readable(tunnel) then
      handle:wait()
    end
  end
  local status = handle:status()
  if status.state == "closed" then
    handle:close()
    return nil, status.last_error, status.last_error_code
  end
  return tunnel
end

return tcpremote
