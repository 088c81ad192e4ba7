--- The command TCPRemoteConnect as the agent calls it: with the asset, what the server sent, the command's path and
-- the ticket. What the server may send is what `DeviceManagement.TCPRemoteConnect` takes.
local agent = require "tcpremote.agent"

return function(_, arguments)
  return agent.connect(arguments)
end
