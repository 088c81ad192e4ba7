local options = require "tcpremote.options"

describe("the options' check", function()
  it("finds nothing wrong with what is right", function()
    assert.is_nil(options.mistake {})
    assert.is_nil(options.mistake {
      server_address = "relay.example.com",
      server_port = 2065,
      local_address = "127.0.0.1",
      local_port = 22,
      allow = "any",
      connect_timeout = 0.5,
      keep_trying = true,
      reconnect = false,
      protocol = 2,
    })
    assert.is_nil(options.mistake { allow = { "127.0.0.1:22", "10.0.0.0/8" } })
  end)

  it("names the option, what is wanted and what was given", function()
    local cases = {
      { { server_address = 1 }, "option 'server_address': string wanted, got number 1" },
      { { server_port = "22" }, "option 'server_port': number wanted, got string '22'" },
      { { server_port = true }, "option 'server_port': number wanted, got boolean true" },
      { { connect_timeout = {} }, "option 'connect_timeout': number wanted, got table" },
      { { reconnect = "yes" }, "option 'reconnect': boolean wanted, got string 'yes'" },
      { { reconnect = 1 }, "option 'reconnect': boolean wanted, got number 1" },
      { { keep_trying = 1 }, "option 'keep_trying': boolean wanted, got number 1" },
      { { protocol = "2" }, "option 'protocol': number wanted, got string '2'" },
      { { allow = 5 }, "option 'allow': string or table wanted, got number 5" },
      { { allow = { "127.0.0.1:22", {} } }, "option 'allow', item 2: string wanted, got table" },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], options.mistake(case[1]))
    end
  end)

  it("knows an unknown option that is a known one in other spelling", function()
    for _, name in ipairs { "ServerPort", "server-port", "SERVER_PORT", "serverport" } do
      assert.equal(("unknown option '%s'; did you mean 'server_port'?"):format(name), options.mistake { [name] = 1 })
    end
  end)

  it("lists the options for any other unknown one", function()
    local list = "the options are allow, connect_timeout, keep_trying, local_address, local_port, "
      .. "protocol, reconnect, server_address, server_port"
    assert.equal("unknown option 'port'; " .. list, options.mistake { port = 1 })
    assert.equal("unknown option '1'; " .. list, options.mistake { "relay.example.com" })
  end)

  it("wants a table", function()
    assert.equal("a table of options is wanted, got nil", options.mistake(nil))
    assert.equal("a table of options is wanted, got string 'relay:1'", options.mistake("relay:1"))
  end)
end)
