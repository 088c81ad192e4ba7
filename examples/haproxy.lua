--- A tunnel in HAProxy, whose Lua is 5.3 in Debian 12; haproxy.cfg beside it says where the relay is.
--
-- A process that takes over at a reload takes the link, too.
local tcpremote = require "tcpremote"

--- HAProxy's interface.
local haproxy = core -- luacheck: ignore

-- A task, and not at the start: HAProxy forks after that.
haproxy.register_task(function()
  local tunnel, message = tcpremote.connect {
    server_address = os.getenv "RELAY_ADDRESS",
    server_port = tonumber(os.getenv "RELAY_PORT"),
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
        -- By the process after a reload. Else this one would take the link back a minute later.
        tunnel:close(0)
      end
    end
  until reason == "closed"
end)
