--- A script of the ReadyAgent that holds a tunnel from the agent's start on, to the relay of its configuration:
--
--     device.tcprconnect = { addr = "relay.example.com", port = 2065, allow = { "22" } }
--
-- What happens stands in the agent's log, as TCPTUNNEL.
local log = require "log"
local sched = require "sched"
local TCPRemoteConnect = require "DeviceManagement.TCPRemoteConnect"

sched.run(function()
  local result, message = TCPRemoteConnect { reconnect = true, keep_trying = true }
  if not result then
    log("TCPTUNNEL", "ERROR", "%s", message)
  end
end)
