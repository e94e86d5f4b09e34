"""The balancer's policy, in virtual time: which instance is asked, when it is ejected, what is repeated."""

import asyncio
import random
from collections import Counter

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein.errors import (
    ClosedError,
    ConfigError,
    DataError,
    InstanceError,
    NoHealthyInstancesError,
    OverloadedError,
    RequestTimeoutError,
)
from brein.scaling import BalancerConfig, LoadBalancer
from brein.scaling.instance import Instance
from brein.scaling.retries import RetryBudget
from brein.scaling.routing import choose

NAMES = ("a", "b", "c")


class Service:
    """Instances a, b and c on a transport: what each answers, how slowly, and what they were asked."""

    def __init__(self):
        self.down = set()  # refuse connections
        self.resets = set()  # break off when they are asked
        self.unready = set()
        self.hung = set()
        self.mute = set()  # hang when they are asked for their load
        self.statuses = {}
        self.delays = {}
        self.metrics = dict.fromkeys(NAMES, "")
        self.asked = []  # (name, headers)
        self.cancelled = 0
        self.balancer = None

    async def answer(self, request):
        name, path = request.url.host, request.url.path
        if path.startswith("/v1/"):
            self.asked.append((name, request.headers))
            assert name in healthy(self.balancer), f"{name} is ejected, and was asked"
        if name in self.down:
            raise httpx2.ConnectError("refused")
        if name in self.hung:
            await asyncio.sleep(1e6)
        match path:
            case "/health/ready":
                return httpx2.Response(503 if name in self.unready else 200)
            case "/metrics":
                if name in self.mute:
                    await asyncio.sleep(1e6)
                return httpx2.Response(200, text=self.metrics[name])
        try:
            await asyncio.sleep(self.delays.get(name, 0.001))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if name in self.resets:
            raise httpx2.ReadError("reset")
        status = self.statuses.get(name, 200)
        return httpx2.Response(status, headers={"Retry-After": "5"} if status == 503 else {}, text=name)

    def balance(self, names=NAMES, seed=0, **settings):
        self.balancer = LoadBalancer(
            [f"http://{name}" for name in names],
            BalancerConfig(**settings),
            transport=httpx2.MockTransport(self.answer),
            random=random.Random(seed),  # noqa: S311  a choice, no secret
        )
        return self.balancer

    @property
    def names_asked(self):
        return [name for name, _ in self.asked]


def healthy(balancer):
    return [status.url.removeprefix("http://") for status in balancer.statuses() if status.healthy]


def search(balancer, **arguments):
    return balancer.request("POST", "/v1/search", content=b"{}", **arguments)


def ingest(balancer):
    return balancer.request("POST", "/v1/documents", content=b"{}")


def metrics(memory, cpu):
    return f"""# TYPE brein_memory_usage_bytes gauge
brein_memory_usage_bytes{{part="index"}} {memory}
brein_memory_usage_bytes{{part="cache"}} 1000
# TYPE brein_cpu_seconds_total counter
brein_cpu_seconds_total {cpu}
brein_query_duration_seconds_count 3
"""


# Routing


def test_heavy_requests_go_where_the_least_memory_or_cpu_is_in_use(in_virtual_time):
    service = Service()

    async def scenario():
        service.metrics = {"a": metrics(3e9, 500), "b": metrics(1e9, 100), "c": metrics(2e9, 900)}
        async with service.balance() as balancer:
            assert balancer.get_healthy_instance("memory_heavy") == "http://b"
            assert balancer.statuses()[0].load.cpu is None, "a counter read once has no rate"
            service.metrics = {"a": metrics(3e9, 500.1), "b": metrics(1e9, 104), "c": metrics(2e9, 902)}
            await asyncio.sleep(1)
            assert balancer.get_healthy_instance("cpu_heavy") == "http://a"
            assert balancer.statuses()[0].load.memory == 3e9 + 1000
            assert 2 <= balancer.statuses()[2].load.cpu <= 2.6, "2 s of CPU within 0.8 to 1 s"
            await balancer.request("POST", "/v1/ask")
            await ingest(balancer)
            await search(balancer, request_type="memory_heavy")
            assert service.names_asked == ["a", "b", "b"], (
                "a route has its type, and the caller the last word"
            )

    in_virtual_time(scenario)


def test_a_counter_that_starts_anew_has_no_rate(in_virtual_time):
    service = Service()

    async def scenario():
        service.metrics["a"] = metrics(1, 500)
        async with service.balance("a") as balancer:
            service.metrics["a"] = metrics(1, 3)
            await asyncio.sleep(1)
            assert balancer.statuses()[0].load.cpu is None
            service.metrics["a"] = metrics(1, 4)
            await asyncio.sleep(1)
            assert balancer.statuses()[0].load.cpu >= 1

    in_virtual_time(scenario)


def test_figures_that_are_old_are_not_used(in_virtual_time):
    service = Service()

    async def scenario():
        service.metrics = {"a": metrics(3e9, 1), "b": metrics(1e9, 1), "c": metrics(2e9, 1)}
        async with service.balance() as balancer:
            service.metrics = dict.fromkeys(NAMES, "brein_memory_usage_bytes{ 12")
            await asyncio.sleep(2)
            assert balancer.get_healthy_instance("memory_heavy") == "http://b"
            await asyncio.sleep(1.5)
            assert [status.load for status in balancer.statuses()] == [None] * 3
            chosen = {balancer.get_healthy_instance("memory_heavy") for _ in range(50)}
            assert chosen == {f"http://{name}" for name in NAMES}

    in_virtual_time(scenario)


def test_an_instance_without_figures_is_not_taken_for_one_without_load(in_virtual_time):
    service = Service()

    async def scenario():
        service.metrics = {"a": "", "b": metrics(2e9, 1), "c": metrics(1e9, 1)}
        async with service.balance() as balancer:
            assert balancer.get_healthy_instance("memory_heavy") == "http://c"

    in_virtual_time(scenario)


def test_an_old_figure_does_not_bring_one_instance_everything(in_virtual_time):
    service = Service()

    async def scenario():
        service.metrics = {"a": metrics(1e9, 1), "b": metrics(2e9, 1), "c": metrics(3e9, 1)}
        service.delays = dict.fromkeys(NAMES, 0.5)
        async with service.balance() as balancer:
            await asyncio.gather(*(ingest(balancer) for _ in range(60)))
        counts = Counter(service.names_asked)
        assert counts["a"] >= counts["b"] > counts["c"] > 0
        assert counts["a"] <= 25  # 1.25 times the mean

    in_virtual_time(scenario)


def test_a_slow_instance_gets_few_requests(in_virtual_time):
    service = Service()

    async def scenario():
        service.delays = {"a": 1.0, "b": 0.01, "c": 0.01}
        async with service.balance() as balancer, asyncio.TaskGroup() as asking:
            for _ in range(300):
                asking.create_task(search(balancer))
                await asyncio.sleep(0.01)
        counts = Counter(service.names_asked)
        assert counts.total() == 300
        assert counts["a"] < 30
        assert min(counts["b"], counts["c"]) > 100

    in_virtual_time(scenario)


instances = st.lists(
    st.fixed_dictionaries(
        {
            "in_flight": st.integers(0, 20),
            "memory": st.none() | st.integers(0, 3),
            "rests": st.booleans(),
            "read_at": st.floats(0, 10),
        }
    ),
    min_size=1,
    max_size=6,
)


@given(
    described=instances,
    request_type=st.sampled_from(["memory_heavy", "cpu_heavy", "general"]),
    seed=st.integers(),
)
def test_whatever_the_load_one_of_them_is_chosen_and_a_rested_one_first(described, request_type, seed):
    now, candidates = 10.0, []
    for number, each in enumerate(described):
        instance = Instance(f"http://{number}", BalancerConfig())
        instance.in_flight = each["in_flight"]
        instance.read(each["memory"], None, each["read_at"])
        if each["rests"]:
            instance.rest(5, now)
        candidates.append(instance)
    chance = random.Random(seed)  # noqa: S311  a choice, no secret
    chosen = choose(candidates, request_type, now, chance)
    assert chosen in candidates
    assert not chosen.rests(now) or all(each["rests"] for each in described)


# Health


@given(
    events=st.lists(st.sampled_from(["passed", "failed", "broke", "answered"]), min_size=30, max_size=60),
    failures=st.integers(1, 4),
    successes=st.integers(1, 4),
)
def test_an_instance_is_ejected_by_failures_in_a_row_and_back_by_successes_in_a_row(
    events, failures, successes
):
    instance = Instance("http://a", BalancerConfig(failures=failures, successes=successes))
    seen, passed = [], 0  # since it was ejected, or failed one
    for event in events:
        was = instance.healthy
        getattr(instance, event)(*([] if event in ("passed", "answered") else ["it did"]))
        seen.append(event)
        passed = {"passed": passed + 1, "failed": 0}.get(event, passed)
        checks = [each for each in seen if each in ("passed", "failed")]
        if not was:
            assert instance.healthy == (event == "passed" and (passed >= successes or len(checks) == 1))
        elif not instance.healthy:
            passed = 0
            bad = [each for each in seen if each != "answered"][-failures:]
            assert len(bad) == failures
            assert "passed" not in bad
        if checks[-failures:] == ["failed"] * failures:
            assert not instance.healthy


def test_a_killed_instance_is_left_alone_within_two_intervals_though_nobody_asks_it(in_virtual_time):
    service = Service()

    async def scenario():
        async with service.balance(interval=1.0) as balancer:
            await asyncio.sleep(7.3)
            service.down = {"b"}
            await asyncio.sleep(2.0)
            assert healthy(balancer) == ["a", "c"]
            assert "ConnectError: refused" in balancer.statuses()[1].reason
            service.down = set()
            await asyncio.sleep(0.8)
            assert healthy(balancer) == ["a", "c"], "once is not enough to return"
            await asyncio.sleep(1.2)
            assert healthy(balancer) == ["a", "b", "c"]

    in_virtual_time(scenario)


def test_under_load_a_killed_instance_is_left_alone_at_once_and_nothing_fails(in_virtual_time):
    service = Service()

    async def scenario():
        async with service.balance(interval=60.0) as balancer:
            for number in range(100):
                if number == 20:
                    service.down = {"b"}
                    service.asked.clear()
                assert (await search(balancer)).status_code == 200
            assert healthy(balancer) == ["a", "c"]
            assert service.names_asked.count("b") == balancer.config.failures

    in_virtual_time(scenario)


def test_one_reset_between_answers_ejects_nobody(in_virtual_time):
    service = Service()

    async def scenario():
        async with service.balance("a", interval=60.0) as balancer:
            for number in range(20):
                service.resets = {"a"} if number % 2 else set()
                if number % 2:
                    with pytest.raises(
                        InstanceError, match=r"http://a broke off at try 1 \(ReadError: reset\)"
                    ):
                        await search(balancer)
                else:
                    await search(balancer)
            assert healthy(balancer) == ["a"]

    in_virtual_time(scenario)


@pytest.mark.parametrize("trouble", ["unready", "hung"])
def test_an_instance_that_is_not_ready_or_hangs_is_ejected(in_virtual_time, trouble):
    service = Service()

    async def scenario():
        async with service.balance(interval=1.0, check_timeout=0.5) as balancer:
            getattr(service, trouble).add("a")
            await asyncio.sleep(3.0)
            assert healthy(balancer) == ["b", "c"]

    in_virtual_time(scenario)


@pytest.mark.parametrize("phase", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_an_instance_that_hangs_is_left_alone_within_two_intervals_and_a_check(in_virtual_time, phase):
    service = Service()

    async def scenario():
        async with service.balance(interval=1.0, check_timeout=1.0) as balancer:
            await asyncio.sleep(7 + phase)
            service.hung = {"b"}
            await asyncio.sleep(3.0)
            assert healthy(balancer) == ["a", "c"]

    in_virtual_time(scenario)


@pytest.mark.parametrize("phase", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_metrics_that_hang_hold_up_no_check(in_virtual_time, phase):
    service = Service()

    async def scenario():
        service.mute = {"b"}
        async with service.balance(interval=1.0, check_timeout=1.0) as balancer:
            await asyncio.sleep(7 + phase)
            service.unready = {"b"}
            await asyncio.sleep(2.0)
            assert healthy(balancer) == ["a", "c"]

    in_virtual_time(scenario)


def test_answers_do_not_keep_an_instance_that_is_not_ready(in_virtual_time):
    service = Service()

    async def scenario():
        async with service.balance("a", interval=1.0) as balancer:
            service.unready = {"a"}
            for _ in range(20):  # in the second before the second check
                assert (await search(balancer)).status_code == 200
                await asyncio.sleep(0.05)
            await asyncio.sleep(1)
            with pytest.raises(NoHealthyInstancesError, match="http://a: /health/ready answers 503"):
                await search(balancer)

    in_virtual_time(scenario)


def test_without_instances_a_request_says_why_and_they_come_back(in_virtual_time):
    service = Service()

    async def scenario():
        service.down = set(NAMES)
        async with service.balance() as balancer:
            for ask in (search, ingest):
                with pytest.raises(
                    NoHealthyInstancesError, match=r"none of 3 .*http://c: /health/ready: ConnectError"
                ):
                    await ask(balancer)
            with pytest.raises(NoHealthyInstancesError):
                balancer.get_healthy_instance("cpu_heavy")
            service.down = {"a", "b"}
            await asyncio.sleep(2)
            assert (await search(balancer)).text == "c"

    in_virtual_time(scenario)


@given(page=st.text(max_size=80) | st.text(max_size=40).map(lambda text: f"brein_cpu_seconds_total{text}"))
def test_no_page_of_metrics_fails_a_check(in_virtual_time, page):
    service = Service()

    async def scenario():
        service.metrics["a"] = page
        async with service.balance("a") as balancer:
            await asyncio.sleep(3)
            assert healthy(balancer) == ["a"]
            assert all(not task.done() for task in balancer._watching)

    in_virtual_time(scenario)


def test_the_key_is_shown_for_metrics(in_virtual_time, monkeypatch):
    shown = []

    async def answer(request):
        shown.append((request.url.path, request.headers.get("Authorization")))
        return httpx2.Response(200)

    async def scenario():
        config = BalancerConfig(key_variable="BREIN_TEST_KEY")
        with pytest.raises(ConfigError, match=r"key_variable = 'BREIN_TEST_KEY': .* holds no key"):
            LoadBalancer(["http://a"], config)
        monkeypatch.setenv("BREIN_TEST_KEY", "secret")
        async with LoadBalancer(["http://a"], config, transport=httpx2.MockTransport(answer)) as balancer:
            await search(balancer, headers={"Authorization": "Bearer mine"})

    in_virtual_time(scenario)
    assert ("/metrics", "Bearer secret") in shown
    assert ("/v1/search", "Bearer mine") in shown


troubles = st.lists(
    st.tuples(
        st.sampled_from(["down", "resets", "unready", "hung"]),
        st.sampled_from(NAMES),
        st.booleans(),
        st.integers(0, 3000),  # ms until the next
    ),
    max_size=25,
)


@given(troubles=troubles, seed=st.integers(0, 10))
def test_whatever_happens_no_ejected_instance_is_asked_and_none_twice(in_virtual_time, troubles, seed):
    service = Service()  # whose answer asserts that it is not ejected
    outcomes = []

    async def ask(balancer, number):
        try:
            response = await search(balancer, headers={"X-Request-ID": str(number)}, timeout=1.0)
            outcomes.append(response.status_code)
        except (InstanceError, NoHealthyInstancesError, RequestTimeoutError) as error:
            outcomes.append(type(error))

    async def scenario():
        async with service.balance(seed=seed) as balancer, asyncio.TaskGroup() as asking:
            for number, (trouble, name, begins, pause) in enumerate(troubles):
                (getattr(service, trouble).add if begins else getattr(service, trouble).discard)(name)
                asking.create_task(ask(balancer, number))
                await asyncio.sleep(pause / 1000)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    in_virtual_time(scenario)
    assert len(outcomes) == len(troubles)
    asked = Counter((name, headers["x-request-id"]) for name, headers in service.asked)
    assert not asked or max(asked.values()) == 1


# Repeats


bursts = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=10)


@given(share=st.floats(0, 1), floor=st.integers(0, 10), bursts=bursts, since=st.integers(0, 9))
def test_between_any_two_moments_the_budget_is_kept(share, floor, bursts, since):
    budget = RetryBudget(share, floor)
    counted = repeats = 0
    for number, (requests, wanted) in enumerate(bursts):
        for _ in range(requests):
            budget.deposit()
        granted = sum(budget.withdraw() for _ in range(wanted))
        if number >= since:
            counted += requests
            repeats += granted
        assert repeats <= floor + share * counted + 1e-6


def test_a_search_that_breaks_off_is_repeated_elsewhere_and_an_ingest_is_not(in_virtual_time):
    service = Service()

    async def scenario():
        service.resets = {"a", "b"}
        async with service.balance(failures=100) as balancer:
            for _ in range(20):
                assert (await search(balancer)).text == "c"
            for path in ("/v1/documents/x?full=1", "/v1/search?x=1"):
                method = "DELETE" if "documents" in path else "POST"
                assert (await balancer.request(method, path)).text == "c"
            service.asked.clear()
            outcomes = await asyncio.gather(*(ingest(balancer) for _ in range(30)), return_exceptions=True)
            assert len(service.asked) == 30
            assert Counter(map(type, outcomes)).keys() == {httpx2.Response, InstanceError}

    in_virtual_time(scenario)


def test_an_ingest_that_never_reached_an_instance_is_sent_to_another(in_virtual_time):
    service = Service()

    async def scenario():
        async with service.balance(failures=100, interval=60.0) as balancer:
            service.down = {"a", "b"}
            for _ in range(20):
                assert (await ingest(balancer)).text == "c"

    in_virtual_time(scenario)


def test_an_overloaded_instance_is_asked_last_for_as_long_as_it_wants(in_virtual_time):
    service = Service()

    async def scenario():
        service.statuses = {"a": 503, "b": 503}
        async with service.balance() as balancer:
            for _ in range(30):
                assert (await search(balancer)).text == "c"
            assert Counter(service.names_asked)["a"] == 1, "Retry-After: 5"
            assert healthy(balancer) == list(NAMES), "to be overloaded is not to be unwell"
            await asyncio.sleep(5)
            service.statuses = {}
            assert {(await search(balancer)).text for _ in range(30)} == set(NAMES)

    in_virtual_time(scenario)


def test_an_answer_that_names_no_rest_does_not_end_one():
    instance = Instance("http://a", BalancerConfig())
    instance.rest(30.0, now=0.0)
    instance.rest(0.0, now=1.0)
    assert instance.rests(29.0)
    assert not instance.rests(30.0)


def test_where_all_rest_any_of_them_is_chosen_and_no_rest_is_longer_than_a_minute():
    resting = [Instance(f"http://{name}", BalancerConfig()) for name in NAMES]
    for instance in resting:
        instance.rest(1e9, now=0.0)
    assert all(instance.rests(59.0) for instance in resting)
    assert not any(instance.rests(61.0) for instance in resting)
    chance = random.Random(0)  # noqa: S311  a choice, no secret
    assert {choose(resting, "general", 1.0, chance) for _ in range(50)} == set(resting)


def test_an_answer_that_leaves_no_time_for_a_repeat_is_the_answer_and_costs_no_budget(in_virtual_time):
    service = Service()

    async def scenario():
        service.statuses = dict.fromkeys(NAMES, 503)
        async with service.balance(retry_floor=1, retry_share=0.0) as balancer:
            service.delays = dict.fromkeys(NAMES, 0.995)
            assert (await search(balancer, timeout=1.0)).status_code == 503
            service.delays = {}
            service.asked.clear()
            assert (await search(balancer)).status_code == 503
            assert len(service.asked) == 2, "the one repeat there is"

    in_virtual_time(scenario)


def test_where_all_are_overloaded_the_caller_is_told_after_each_was_asked_once(in_virtual_time):
    service = Service()

    async def scenario():
        service.statuses = dict.fromkeys(NAMES, 503)
        async with service.balance() as balancer:
            response = await search(balancer)
            assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
            assert sorted(service.names_asked) == list(NAMES)
            service.asked.clear()
            assert (await ingest(balancer)).status_code == 503
            assert len(service.asked) == 1, "who knows what it did before it gave up"

    in_virtual_time(scenario)


def test_repeats_end_where_the_budget_does(in_virtual_time):
    service = Service()

    async def scenario():
        service.resets = set(NAMES)
        async with service.balance(failures=100, retry_floor=5, retry_share=0.1) as balancer:
            for _ in range(100):
                with pytest.raises(InstanceError, match="the request is not repeated"):
                    await search(balancer)
                await asyncio.sleep(1)
        assert 100 + 10 <= len(service.asked) <= 100 + 5 + 10

    in_virtual_time(scenario)


def test_no_answer_is_repeated_for_its_status_but_503(in_virtual_time):
    service = Service()

    async def scenario():
        async with service.balance() as balancer:
            for status in (400, 404, 422, 429, 500, 504):
                service.statuses = dict.fromkeys(NAMES, status)
                assert (await search(balancer)).status_code == status
        assert len(service.asked) == 6

    in_virtual_time(scenario)


# Deadlines, cancellation, bounds


def test_the_time_that_is_left_is_passed_on_and_nothing_is_asked_once_it_is_over(in_virtual_time):
    service = Service()

    async def scenario():
        now = asyncio.get_running_loop().time
        service.resets, service.delays = set(NAMES), dict.fromkeys(NAMES, 0.4)
        async with service.balance(failures=100) as balancer:
            begun = now()
            with pytest.raises(RequestTimeoutError, match=r"POST /v1/search: no answer within 1 s"):
                await search(balancer, timeout=1.0, headers={"Request-Timeout": "77"})
            assert now() - begun == pytest.approx(1.0)
            assert [headers["request-timeout"] for _, headers in service.asked] == ["1.000", "0.600", "0.200"]
            assert service.cancelled == 1
            assert [status.in_flight for status in balancer.statuses()] == [0, 0, 0]
            assert healthy(balancer) == list(NAMES), "the caller's impatience is not the instance's failure"

    in_virtual_time(scenario)


def test_what_has_less_time_than_the_service_takes_is_not_asked(in_virtual_time):
    service = Service()

    async def scenario():
        async with service.balance() as balancer:
            with pytest.raises(RequestTimeoutError):
                await search(balancer, timeout=0.009)
        assert not service.asked

    in_virtual_time(scenario)


def test_a_request_has_an_id_of_its_own_and_keeps_one_it_has_whoever_is_asked(in_virtual_time):
    service = Service()

    async def scenario():
        async with service.balance() as balancer:
            service.statuses = dict.fromkeys(NAMES, 503)
            for headers in ({"X-Request-ID": "mine"}, {}, {}):
                await search(balancer, headers=headers)
        ids = [headers["x-request-id"] for _, headers in service.asked]
        assert ids[:3] == ["mine"] * 3
        assert sorted(Counter(ids).values()) == [3, 3, 3]

    in_virtual_time(scenario)


def test_nobody_waits_longer_than_is_configured(in_virtual_time):
    service = Service()

    async def scenario():
        service.delays = dict.fromkeys(NAMES, 1e5)
        async with service.balance(timeout=7.0) as balancer:
            for timeout in (None, 1000.0, float("inf")):
                begun = asyncio.get_running_loop().time()
                with pytest.raises(RequestTimeoutError):
                    await search(balancer, timeout=timeout)
                assert asyncio.get_running_loop().time() - begun == pytest.approx(7.0)

    in_virtual_time(scenario)


def test_a_request_that_is_cancelled_is_cancelled_at_the_instance(in_virtual_time):
    service = Service()

    async def scenario():
        service.delays = dict.fromkeys(NAMES, 10.0)
        async with service.balance() as balancer:
            asking = asyncio.create_task(search(balancer))
            await asyncio.sleep(1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert service.cancelled == 1
            assert len(service.asked) == 1
            assert sum(status.in_flight for status in balancer.statuses()) == 0

    in_virtual_time(scenario)


def test_closing_lets_what_is_in_hand_have_its_outcome_and_refuses_the_rest(in_virtual_time):
    service = Service()

    async def scenario():
        service.delays = dict.fromkeys(NAMES, 10.0)
        balancer = service.balance()
        async with balancer:
            asking = [asyncio.create_task(search(balancer)) for _ in range(5)]
            await asyncio.sleep(1)
            closing = asyncio.create_task(balancer.close())
            await asyncio.sleep(1)
            with pytest.raises(ClosedError):
                await search(balancer)
            assert not closing.done()
            await closing
            assert [(await each).status_code for each in asking] == [200] * 5
            assert asyncio.get_running_loop().time() == pytest.approx(10.0, abs=0.1)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    in_virtual_time(scenario)


def test_more_requests_than_may_be_in_hand_are_refused(in_virtual_time):
    service = Service()

    async def scenario():
        async with service.balance(max_in_flight=3) as balancer:
            outcomes = await asyncio.gather(*(search(balancer) for _ in range(5)), return_exceptions=True)
            assert Counter(map(type, outcomes)) == {httpx2.Response: 3, OverloadedError: 2}
            assert (await search(balancer)).status_code == 200

    in_virtual_time(scenario)


@pytest.mark.parametrize(
    ("problem", "arguments"),
    [
        (r"content has 2000 bytes, max_body = 1024", {"content": bytes(2000)}),
        (r"timeout = 0: must be greater than 0", {"timeout": 0}),
        (r"timeout = nan", {"timeout": float("nan")}),
        (r"'/v1/ü' cannot be asked for", {"path": "/v1/ü"}),
        (r"'/v1/\\n' cannot be asked for", {"path": "/v1/\n"}),
        (r"'/v1/../metrics' cannot be asked for: it is '/metrics'", {"path": "/v1/../metrics"}),
        (r"'v1/x' cannot be asked for", {"path": "v1/x"}),
        (r"headers cannot be sent", {"headers": {"X-Name": "ü"}}),
    ],
)
def test_what_cannot_be_sent_is_the_callers_error_and_nobodys_failure(in_virtual_time, problem, arguments):
    service = Service()

    async def scenario():
        async with service.balance(max_body=1024) as balancer:
            for _ in range(5):
                with pytest.raises(DataError, match=problem):
                    await balancer.request(**{"method": "GET", "path": "/v1/x", **arguments})
            assert healthy(balancer) == list(NAMES)

    in_virtual_time(scenario)


def test_an_answer_that_is_too_long_is_not_read(in_virtual_time):
    async def parts(number):
        for _ in range(number):
            yield b"x" * 300

    async def answer(request):
        return httpx2.Response(200, content=parts(10 if "v1" in request.url.path else 0))

    async def scenario():
        transport = httpx2.MockTransport(answer)
        async with LoadBalancer(["http://a"], BalancerConfig(max_body=1024), transport=transport) as balancer:
            with pytest.raises(InstanceError, match="an instance sends more than max_body = 1024 bytes"):
                await search(balancer)

    in_virtual_time(scenario)


def test_answers_beyond_what_may_be_held_are_refused_and_their_room_returns(in_virtual_time):
    async def slowly():
        for _ in range(2):
            yield b"x" * 600
            await asyncio.sleep(1)

    async def answer(request):
        return httpx2.Response(200, content=slowly() if "v1" in request.url.path else b"")

    async def scenario():
        config = BalancerConfig(max_body=1200, max_held=3000)
        async with LoadBalancer(["http://a"], config, transport=httpx2.MockTransport(answer)) as balancer:
            for _ in range(3):
                outcomes = await asyncio.gather(*(search(balancer) for _ in range(3)), return_exceptions=True)
                assert Counter(map(type, outcomes)) == {httpx2.Response: 2, OverloadedError: 1}
            assert healthy(balancer) == ["a"], "to hold too much is the balancer's own trouble"

    in_virtual_time(scenario)


def test_what_may_be_held_is_at_least_a_body():
    with pytest.raises(ConfigError, match="max_held = 2000: must be at least max_body = 3000; raise it"):
        BalancerConfig.read('{"max_held": 2000, "max_body": 3000}')


@pytest.mark.parametrize(
    ("problem", "urls"),
    [
        ("instances are none", []),
        (r"URL\('a:80'\) is no http or https URL", ["a:80"]),
        (r"URL\('http:'\) is no http or https URL", ["http://"]),
        (r"URL\('http://a/b'\) is no http or https URL", ["http://a/b"]),
        (r"URL\('http://me:\[secure\]@a'\) is no http or https URL", ["http://me:secret@a"]),
        ("not all different", ["http://a:80/", "http://a"]),
    ],
)
def test_instances_are_urls_of_hosts(problem, urls):
    with pytest.raises(ConfigError, match=problem):
        LoadBalancer(urls)
