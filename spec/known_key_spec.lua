--- A device whose key the relay's operator lets in, by the programs alone.
local net = require "support.net"
local process = require "support.process"

describe("a device whose key the operator lets in", function()
  local place, relay

  before_each(function()
    place = os.tmpname()
    os.remove(place)
    relay = process.relay_with_keys(place)
  end)

  after_each(function()
    relay.stop()
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
    local join = relay.ask("token device pump-4 --pending"):match("^tcpr1%S+")
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
    relay.ask((approve:gsub("^%S+", "")))
    local run = process.service(("run --state-dir %s/state"):format(place))
    local joined = net.eventually(function()
      return run.log():match("joined the relay as pump%-4[^\n]*")
    end, "it has joined")
    run.stop()
    assert.truthy(joined:find(fingerprint, 1, true))
    local again = "tcpremote: this string was used here already, so there is nothing to do\n"
    assert.equal(again .. "pump-4\n" .. fingerprint .. "\n0\n", output(command))
  end)

  it("knows a string that it has used, whatever waits for approval beside it", function()
    local first = relay.ask("token device pump-4"):match("^tcpr1%S+")
    local other = relay.ask("token device pump-5 --pending"):match("^tcpr1%S+")
    local command = "%s bin/tcpremote join %s --state-dir %s/state 2>&1; echo $?"
    local function join(text)
      return output(command:format(process.lua, text, place))
    end
    local name, fingerprint = join(first):match("^(%S+)\n(SHA256:%S+)\n0\n$")
    assert.equal("pump-4", name)
    assert.matches("; then restart the service, or start 'tcpremote run' again: it needs the string no more\n4\n$",
      join(other))
    local again = "tcpremote: this string was used here already, so there is nothing to do\n"
    assert.equal(again .. "pump-4\n" .. fingerprint .. "\n0\n", join(first))
  end)

  it("joins with the string that 'add' printed", function()
    if process.status("command -v openssl >/dev/null") ~= 0 then
      return pending("there is no openssl to make a key")
    end
    local state = place .. "/state"
    local key = output(("umask 077; mkdir %s && openssl genpkey -algorithm ed25519 -outform DER -out %s/key && "
      .. "openssl pkey -inform DER -in %s/key -pubout"):format(state, state, state)):match("\n(%S+)\n")
    local join = relay.ask("add pump-3 --key " .. key):match("^tcpr1%S+")
    local command = ("%s bin/tcpremote %%s --state-dir %s"):format(process.lua, state)
    local fingerprint = relay.ask("devices --json"):match('"(SHA256:[^"]+)"')
    assert.equal("pump-3\n" .. fingerprint .. "\n", output(command:format("join " .. join)))
    assert.truthy(output(command:format("status")):find("pump-3", 1, true))
  end)
end)
