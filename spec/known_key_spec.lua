--- A device whose key the relay's operator lets in, by the programs alone.
local net = require "support.net"
local process = require "support.process"

describe("a device whose key the operator lets in", function()
  local relay = os.getenv("SPEC_RELAY")
  local place, config, program

  before_each(function()
    place = os.tmpname()
    os.remove(place)
    config = place .. "/relay/relay.toml"
    local made = "mkdir -m 700 %s && %s init %s/relay --address 127.0.0.1:%d >/dev/null "
      .. "&& sed -i s/0.0.0.0:/127.0.0.1:/ %s"
    assert.equal(0, process.status(made:format(place, relay, place, net.free_port(), config)))
    program = process.relay("run", "--config", config)
    net.eventually(function()
      return program.log():find("waiting for a device", 1, true)
    end, "the relay's start")
  end)

  after_each(function()
    program.stop()
    process.status("rm -rf " .. place)
  end)

  --- What a command writes to standard output.
  local function output(command)
    local pipe = assert(io.popen(command .. " 2>/dev/null"))
    local text = pipe:read("*a")
    pipe:close()
    return text
  end

  it("waits for approval, and is told what to do and its fingerprint, once", function()
    local join = output(("%s token device pump-4 --pending --config %s"):format(relay, config)):match("^tcpr1%S+")
    local command = ("%s bin/tcpremote join %s --state-dir %s/state 2>&1; echo $?"):format(process.lua, join, place)
    local refusal, status = output("exec 2>&1; " .. command):match("^(.*)\n(%d+)\n$")
    local approve, fingerprint = refusal:match(
      "waits for approval; run at the relay: (tcp%-remote%-relay approve (SHA256:%S+)); then 'tcpremote run' needs"
    )
    assert.truthy(approve, refusal)
    assert.equal("4", status)
    assert.equal(1, select(2, refusal:gsub("SHA256:", "")))
    local shown = output(("%s bin/tcpremote status --state-dir %s/state"):format(process.lua, place))
    assert.truthy(shown:find("has yet to approve this key", 1, true) and shown:find(fingerprint, 1, true), shown)
    output(relay .. approve:gsub("^%S+", "") .. " --config " .. config)
    local run = ("timeout 30 %s bin/tcpremote run --state-dir %s/state 2>&1 | grep -m 1 'joined the relay as pump-4'")
    assert.truthy(output(run:format(process.lua, place)):find(fingerprint, 1, true))
    assert.equal("pump-4\n" .. fingerprint .. "\n0\n", output(command))
  end)

  it("joins with the string that 'add' printed", function()
    if process.status("command -v openssl >/dev/null") ~= 0 then
      return pending("there is no openssl to make a key")
    end
    local state = place .. "/state"
    local key = output(("umask 077; mkdir %s && openssl genpkey -algorithm ed25519 -outform DER -out %s/key && "
      .. "openssl pkey -inform DER -in %s/key -pubout"):format(state, state, state)):match("\n(%S+)\n")
    local join = output(("%s add pump-3 --key %s --config %s"):format(relay, key, config)):match("^tcpr1%S+")
    local command = ("%s bin/tcpremote %%s --state-dir %s"):format(process.lua, state)
    local fingerprint = output(("%s devices --json --config %s"):format(relay, config)):match('"(SHA256:[^"]+)"')
    assert.equal("pump-3\n" .. fingerprint .. "\n", output(command:format("join " .. join)))
    assert.truthy(output(command:format("status")):find("pump-3", 1, true))
  end)
end)
