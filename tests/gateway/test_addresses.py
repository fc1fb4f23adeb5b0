"""Which addresses count as public, and what a URL must look like."""

from __future__ import annotations

import ipaddress

import pytest

from backdrop_server.gateway.addresses import is_public
from backdrop_server.gateway.urls import RefusedUrlError, parse_url

PUBLIC = (
    "8.8.8.8",
    "1.1.1.1",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "198.17.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:82a::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
)
NOT_PUBLIC = {
    "unspecified": ("0.0.0.0", "0.1.2.3", "::"),  # noqa: S104
    "loopback": ("127.0.0.1", "127.255.255.254", "::1"),
    "private": ("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd12::1"),
    "metadata": ("169.254.169.254", "169.254.170.2", "fd00:ec2::254", "100.100.100.200"),
    "link-local": ("169.254.0.1", "fe80::1", "fe80::1%2", "febf::1"),
    "site-local": ("fec0::1",),
    "carrier NAT": ("100.64.0.1", "100.127.255.254"),
    "multicast": ("224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"),
    "reserved": ("240.0.0.1", "255.255.255.255", "192.0.0.9", "192.88.99.1", "4000::1", "100::1"),
    "benchmarking": ("198.18.0.1", "198.19.255.254", "2001:2::1"),
    "documentation": ("192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"),
    "IPv4-mapped": ("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    "IPv4-compatible": ("::127.0.0.1", "::10.0.0.1", "::8.8.8.8"),
    "IPv4-translated": ("::ffff:0:127.0.0.1",),
    "6to4": ("2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:808:808::1"),
    "Teredo": ("2001:0:808:808::80ff:fffe", "2001::1"),
    "NAT64": ("64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::7f00:1"),
    "ISATAP": ("2606:4700::5efe:7f00:1", "2606:4700::200:5efe:a00:1"),
}


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_pass(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", [text for texts in NOT_PUBLIC.values() for text in texts])
def test_all_others_do_not(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://images.example.com/a.png?b=c#d", "images.example.com"),
        ("HTTP://Images.EXAMPLE.com.:8080", "images.example.com"),
        ("http://bücher.example/ä.png", "xn--bcher-kva.example"),
        ("http://under_score.example/", "under_score.example"),
        ("http://3com.example/", "3com.example"),
        ("http://8.8.8.8/", "8.8.8.8"),
        ("http://[2606:4700:4700::1111]:80/", "2606:4700:4700::1111"),
        ("http://example.com/" + "a" * 2029, "example.com"),
    ],
)
def test_well_formed_urls_pass(url: str, host: str) -> None:
    assert parse_url(url).raw_host.decode() == host


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("cdn.example.com", True),
        ("CDN.example.com.", True),
        ("a.shop.test", True),
        ("a.b.shop.test", True),
        ("shop.test", False),
        ("notshop.test", False),
        ("cdn.example.com.attacker.test", False),
        ("x.cdn.example.com", False),
        ("8.8.8.8", False),
    ],
)
def test_a_list_of_hosts_is_exact(host: str, passes: bool) -> None:
    hosts = ("cdn.Example.com", "*.shop.test")
    if passes:
        parse_url(f"https://{host}/a.png", hosts)
        return
    with pytest.raises(RefusedUrlError, match="not on this server's list"):
        parse_url(f"https://{host}/a.png", hosts)
