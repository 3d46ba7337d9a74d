package interop;

import com.alibaba.fastjson.JSONObject;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import org.apache.commons.cli.CommandLine;
import org.apache.commons.cli.Options;
import org.apache.commons.cli.PosixParser;
import org.apache.rocketmq.common.MixAll;
import org.apache.rocketmq.tools.command.SubCommand;

/** mqadmin's own commands: "mqadmin" runs the one of a class, with arguments, and gives what it prints. */
final class Commands {
    private Commands() {
    }

    static void register(Driver driver) {
        driver.on("mqadmin", Commands::run);
    }

    private static Object run(JSONObject ask) throws Exception {
        SubCommand command = (SubCommand) Class.forName("org.apache.rocketmq.tools.command." + ask.getString("command"))
            .getDeclaredConstructor().newInstance();
        Options options = command.buildCommandlineOptions(new Options());
        CommandLine line = new PosixParser().parse(options, ask.getJSONArray("args").toArray(new String[0]));
        System.setProperty(MixAll.NAMESRV_ADDR_PROPERTY, ask.getString("namesrv"));
        PrintStream before = System.out;
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        System.setOut(new PrintStream(printed, true, StandardCharsets.UTF_8));
        try {
            command.execute(line, options, null);
        } finally {
            System.setOut(before);
            System.clearProperty(MixAll.NAMESRV_ADDR_PROPERTY);
        }
        return printed.toString(StandardCharsets.UTF_8);
    }
}
