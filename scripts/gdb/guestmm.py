# guestmm in gdb: page frames print as numbers, zones show their free lists.
#
#   gdb -x scripts/gdb/guestmm.py PROGRAM
#   (gdb) print pfn
#   $1 = pfn 0x100352
#   (gdb) free-lists zone
#
# Needs types: the preset debug, or any program of yours that is built with -g.

import gdb
import gdb.printing


def number(value):
    """The one member of a value class: of Pfn, PageCount, Order, Gpa."""
    return int(value[value.type.fields()[0]])


def printer(shown):
    """A pretty printer that prints shown(number)."""

    class Printer:
        def __init__(self, value):
            self.value = value

        def to_string(self):
            return shown(number(self.value))

    return Printer


def printers():
    named = gdb.printing.RegexpCollectionPrettyPrinter("guestmm")
    named.add_printer("Pfn", "^guestmm::Pfn$", printer(lambda n: f"pfn {n:#x}"))
    named.add_printer("PageCount", "^guestmm::PageCount$", printer(lambda n: f"{n} pages"))
    named.add_printer("Order", "^guestmm::Order$", printer(lambda n: f"order {n}"))
    named.add_printer("Gpa", "^guestmm::Gpa$", printer(lambda n: f"gpa {n:#x}"))
    return named


class FreeLists(gdb.Command):
    """free-lists ZONE: the free lists that are not empty, each with its first blocks.

    A line per list, by migratetype and order: how many blocks, and their pfns from the
    list's head on. A list whose links do not lead back to its head ends in "...".
    """

    SHOWN = 8
    LONGEST = 1 << 20  # a damaged list may not end

    def __init__(self):
        super().__init__("free-lists", gdb.COMMAND_DATA, gdb.COMPLETE_EXPRESSION)

    def invoke(self, argument, from_tty):
        if not argument:
            raise gdb.GdbError("free-lists ZONE: the zone is missing")
        zone = gdb.parse_and_eval(argument)
        if zone.type.code in (gdb.TYPE_CODE_PTR, gdb.TYPE_CODE_REF):
            zone = zone.referenced_value()
        if zone.type.strip_typedefs().unqualified().name != "guestmm::Zone":
            raise gdb.GdbError(f"{argument}: must be a guestmm::Zone")
        orders = int(zone["blocks_"].type.template_argument(1))
        entries = zone["pages_"]["entries_"]
        for field in gdb.lookup_type("guestmm::MigrateType").fields():
            for order in range(orders):
                head = int(zone["lists_"]) + field.enumval * orders + order
                self.show(f"{field.name.split('::k')[-1]:<11} order {order:<2}", entries, head)

    def show(self, name, entries, head):
        pfns, count, at = [], 0, int(entries[head]["next"])
        while at != head and count < self.LONGEST:
            if count < self.SHOWN:
                pfns.append(f"{at:#x}")
            count += 1
            at = int(entries[at]["next"])
        if not count:
            return
        more = ["..."] if count > len(pfns) else []
        print(f"{name} {count:>7}: {' '.join(pfns + more)}")


gdb.printing.register_pretty_printer(None, printers(), replace=True)
FreeLists()
