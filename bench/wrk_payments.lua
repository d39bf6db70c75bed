-- The load of `make bench` for wrk: every request is a checkout that was never sent before.
-- wrk ... -s wrk_payments.lua URL -- API_KEY RUN ORDERS. bench/load.py makes the same bodies; change both.
-- There is no response hook: it costs a third of what wrk can send. What was answered is counted in the gateway's
-- metrics, and what was charged in the database and in the simulator's books.

local BUYERS, SELLERS = 10000, 1000
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("thread_number", threads)
end

local head, tag, orders_of_each
local sent = 0

function init(args)
  head = table.concat({
    "POST /v1/payments HTTP/1.1", "Host: " .. wrk.host .. ":" .. wrk.port, "Authorization: Bearer " .. args[1],
    "Content-Type: application/json", "Content-Length: ",
  }, "\r\n")
  tag = args[2] .. "-" .. string.char(96 + thread_number) .. "-"
  orders_of_each = tonumber(args[3])
  math.randomseed(7919 * thread_number)
end

-- Of 100 orders 48 are in USD, 48 in EUR, 2 in JPY and 2 in KWD.
local function money()
  local die, whole = math.random(100), math.random(5, 499)
  if die <= 48 then return string.format('"amount":"%d.95","currency":"USD","commission":"0.45"', whole) end
  if die <= 96 then return string.format('"amount":"%d.95","currency":"EUR","commission":"0.45"', whole) end
  if die <= 98 then return string.format('"amount":"%d","currency":"JPY","commission":"3"', whole * 100) end
  return string.format('"amount":"%d.250","currency":"KWD","commission":"0.125"', whole)
end

function request()
  sent = sent + 1
  local ticket, buyer = tag .. sent, math.random(BUYERS)
  local orders = {}
  for place = 1, orders_of_each do
    orders[place] = string.format(
      '{"payment_order_id":"o-%s-%d","seller_account":"seller-%d",%s}', ticket, place, math.random(SELLERS), money())
  end
  local body = string.format(
    '{"buyer":{"reference":"buyer-%d","email":"buyer-%d@shop.example","country":"DE","ip":"198.51.%d.%d"},'
    .. '"checkout_id":"c-%s","payment_method":{"token":"tok_approve.card%d"},"payment_orders":[%s],'
    .. '"idempotency_key":"k-%s"}',
    buyer, buyer, math.floor(buyer / 250), buyer % 250, ticket, buyer, table.concat(orders, ","), ticket)
  return head .. #body .. "\r\n\r\n" .. body
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"generator":"wrk","answered":%d,"seconds":%.6f,"refused":%d,"failed":%d,"p50_ms":%.3f,"p99_ms":%.3f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
