--- A tunnel in HAProxy, whose Lua is 5.3 in Debian 12. Write in its section `global`
--
--     lua-load /etc/haproxy/haproxy.lua relay.example.com 2065
--
-- A process that takes over at a reload takes the link, too. The one before it has a client of the relay to the end.
local tcpremote = require "tcpremote"

local server_address, server_port = ...

--- The name of its interface.
local haproxy = core -- luacheck: ignore

-- A task, and not at the start: HAProxy forks after that.
haproxy.register_task(function()
  local tunnel, message = tcpremote.connect {
    server_address = server_address,
    server_port = tonumber(server_port),
    keep_trying = true,
    -- One thread of HAProxy stands still until the first attempt is over.
    connect_timeout = 1,
  }
  if not tunnel then
    haproxy.Alert(message)
    return
  end
  repeat
    local event, reason = tunnel:next_event()
    if not event then
      haproxy.msleep(200)
    else
      haproxy.Info(event.message)
      if event.code == "replaced" then
        -- By the next process. Else this one would take the link back a minute later.
        tunnel:close(0)
      end
    end
  until reason == "closed"
end)
